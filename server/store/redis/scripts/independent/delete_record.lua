#!lua flags=allow-oom
-- A repeated call has the same `call_id` and gets the same answer.
local records, id, call_id = KEYS[1], ARGV[1], ARGV[2]
local deletion_key = '{' .. records .. '}:deleted:' .. id
if redis.call('GET', deletion_key) == call_id then return 1 end
if redis.call('HDEL', records, id) == 0 then return 0 end
redis.call('SET', deletion_key, call_id, 'EX', 60)
return 1
