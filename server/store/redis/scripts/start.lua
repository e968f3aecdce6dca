#!lua
-- The same call, made again because its answer was lost, comes with the same `mark` and gets the same answer.
local id, mark = ARGV[4], ARGV[5]
if not is_there() or write_down_abandoned()[1] ~= id then return false end
local run = redis.call('HMGET', run_key(id), 'status', 'started')
if run[1] ~= 'queued' and run[2] ~= mark then return false end
redis.call('HSET', run_key(id), 'status', 'running', 'started', mark, 'lease', lease)
redis.call('PUBLISH', 'run:' .. id, '')
return snapshot()
