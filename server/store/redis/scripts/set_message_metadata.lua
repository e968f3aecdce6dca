#!lua
-- A message's metadata is its second line.
local index = exists() and find_index(ARGV[4])
if not index then return false end
local head, fragment = string.match(redis.call('LINDEX', messages, index), '^([^\n]*)\n[^\n]*\n(.*)$')
local line = head .. '\n' .. ARGV[5] .. '\n' .. fragment
redis.call('LSET', messages, index, line)
return line
