#!lua
-- A repeated call has the same `call_id` and gets the same answer.
local id, call_id = ARGV[4], ARGV[5]
if not exists() or end_abandoned_runs()[1] ~= id then return false end
local status, start_call_id = unpack(redis.call('HMGET', run_key(id), 'status', 'start_call_id'))
if status ~= 'queued' and start_call_id ~= call_id then return false end
redis.call('HSET', run_key(id), 'status', 'running', 'start_call_id', call_id, 'lease', lease)
redis.call('PUBLISH', 'run:' .. id, '')
return read_conversation()
