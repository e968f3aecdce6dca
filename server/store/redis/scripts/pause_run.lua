#!lua
-- `usage_entry` counts what the run has used so far if it is abandoned, and is empty if that is not known.
-- A repeated call gets the same answer, also if the run has been resumed since.
local id, run_json, text, expires, usage_entry = ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local status, hash = exists() and read_status(id), redis.sha1hex(run_json)
if status and get_field(id, 'pause_hash') == hash then return 1 end
if status ~= 'running' then return 0 end
redis.call(
  'HSET', run_key(id), 'run_json', run_json, 'status', 'requires_action', 'lease', expires, 'pause_hash', hash
)
redis.call('HDEL', run_key(id), 'worker', 'start_call_id')
if usage_entry ~= '' then redis.call('HSET', run_key(id), 'usage_entry', usage_entry) end
redis.call('SET', text_key(id), text)
redis.call('PUBLISH', 'run:' .. id, '')
return 1
