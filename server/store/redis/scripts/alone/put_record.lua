#!lua
-- Gives 0, and keeps nothing, where there are so many that another one is too much.
local records, id, record, most = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3])
if redis.call('HEXISTS', records, id) == 0 and redis.call('HLEN', records) >= most then return 0 end
redis.call('HSET', records, id, record)
return 1
