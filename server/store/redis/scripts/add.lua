#!lua
-- The messages follow the arguments that have names. The same call made again finds them among the newest.
local first, newest = 5, tonumber(ARGV[4])

local function are_added()
  local head = ARGV[first] and string.match(ARGV[first], '^[^,]*,')
  for place = 1, head and #ARGV - first + 1 + newest or 0 do
    local line = redis.call('LINDEX', messages, -place)
    if not line then return false end
    if string.sub(line, 1, #head) == head then return true end
  end
  return false
end

if not is_there() then return 'missing' end
if are_added() then return 'added' end
if #write_down_abandoned() > 0 then return 'busy' end
for place = first, #ARGV do redis.call('RPUSH', messages, ARGV[place]) end
redis.call('HSET', conversation, 'touched', now)
return 'added'
