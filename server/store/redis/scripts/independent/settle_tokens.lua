#!lua flags=allow-oom
-- Spend `tokens` in place of what the run has reserved. Does nothing if that was settled before.
local budget, id, tokens = KEYS[1], ARGV[1], ARGV[2]
local earlier = redis.call('HGET', budget, id)
if not earlier then return end
redis.call('HDEL', budget, id)
redis.call('HINCRBY', budget, 'reserved', '-' .. string.match(earlier, '^%d+'))
redis.call('HINCRBY', budget, 'spent', tokens)
