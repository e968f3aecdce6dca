#!lua
-- A repeated call gets the same answer, also if the run has been resumed since.
local id, run_json, text, expires = ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local status, hash = exists() and read_status(id), redis.sha1hex(run_json)
if status and get_field(id, 'pause_hash') == hash then return 1 end
if status ~= 'running' then return 0 end
redis.call(
  'HSET', run_key(id), 'run_json', run_json, 'status', 'requires_action', 'lease', expires, 'pause_hash', hash
)
redis.call('HDEL', run_key(id), 'worker', 'start_call_id')
redis.call('SET', text_key(id), text)
redis.call('PUBLISH', 'run:' .. id, '')
return 1
