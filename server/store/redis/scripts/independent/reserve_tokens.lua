#!lua
-- A hash for each key and day: `spent`, `reserved`, and for each open run what it has reserved, and when. If too little
-- is left, reserves nothing and returns what is spent; otherwise returns nil. What the same run has reserved before is
-- replaced, so the call can be repeated; with `replaces`, nothing is reserved for a run that has reserved nothing
-- before, since it has ended.
local budget, id, now, tokens, daily_tokens = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local seconds, replaces = ARGV[5], ARGV[6] == '1'
local spent, reserved, earlier = unpack(redis.call('HMGET', budget, 'spent', 'reserved', id))
if replaces and not earlier then return end
earlier = tonumber(string.match(earlier or '0', '^%d+'))
if (spent or 0) + (reserved or 0) - earlier + tokens > daily_tokens then return tonumber(spent or 0) end
redis.call('HSET', budget, id, string.format('%.0f %s', tokens, now))
redis.call('HINCRBY', budget, 'reserved', string.format('%.0f', tokens - earlier))
redis.call('EXPIRE', budget, seconds)
