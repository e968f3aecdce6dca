#!lua flags=allow-oom
-- The same call, made again because its answer was lost, comes with the same `mark` and gets the same answer.
local records, id, mark = KEYS[1], ARGV[1], ARGV[2]
local marked = '{' .. records .. '}:deleted:' .. id
if redis.call('GET', marked) == mark then return 1 end
if redis.call('HDEL', records, id) == 0 then return 0 end
redis.call('SET', marked, mark, 'EX', 60)
return 1
