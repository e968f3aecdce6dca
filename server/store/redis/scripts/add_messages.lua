#!lua
-- The messages follow the named arguments. A repeated call finds the first of them among the recent ones.
local recent, first = tonumber(ARGV[4]), 5

local function has_added()
  local head = ARGV[first] and string.match(ARGV[first], '^[^,]*,')
  for n = 1, head and #ARGV - first + 1 + recent or 0 do
    local line = redis.call('LINDEX', messages, -n)
    if not line then return false end
    if string.sub(line, 1, #head) == head then return true end
  end
  return false
end

if not exists() then return 'missing' end
if has_added() then return 'added' end
if #end_abandoned_runs() > 0 then return 'busy' end
for n = first, #ARGV do redis.call('RPUSH', messages, ARGV[n]) end
redis.call('HSET', conversation, 'touched', now)
return 'added'
