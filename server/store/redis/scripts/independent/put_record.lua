#!lua
-- Returns 0 and stores nothing if the record is new and there are `max_records` already.
local records, id, record, max_records = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3])
if redis.call('HEXISTS', records, id) == 0 and redis.call('HLEN', records) >= max_records then return 0 end
redis.call('HSET', records, id, record)
return 1
