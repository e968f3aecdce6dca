#!lua flags=no-writes
-- Names and times in the index, latest first: `most` of them, after the position of `touched` and `name` if these are
-- given. Redis orders the names of one time by their bytes, while Lua would compare them as its locale has it.
local index, most, touched, name = KEYS[1], tonumber(ARGV[1]), ARGV[2], ARGV[3]

local function is_less(a, b)
  for n = 1, math.min(#a, #b) do
    if string.byte(a, n) ~= string.byte(b, n) then return string.byte(a, n) < string.byte(b, n) end
  end
  return #a < #b
end

local function find_first()
  if not touched then return 0 end
  local low = redis.call('ZCOUNT', index, '(' .. touched, '+inf')
  local high = low + redis.call('ZCOUNT', index, touched, touched)
  while low < high do
    local middle = math.floor((low + high) / 2)
    if is_less(redis.call('ZRANGE', index, middle, middle, 'REV')[1], name) then high = middle else low = middle + 1 end
  end
  return low
end

local first = find_first()
return redis.call('ZRANGE', index, first, first + most - 1, 'REV', 'WITHSCORES')
