#!lua
-- A message's metadata is its second line.
local place = is_there() and place_of(ARGV[4])
if not place then return false end
local head, fragment = string.match(redis.call('LINDEX', messages, place), '^([^\n]*)\n[^\n]*\n(.*)$')
local changed = head .. '\n' .. ARGV[5] .. '\n' .. fragment
redis.call('LSET', messages, place, changed)
return changed
