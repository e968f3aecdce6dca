#!lua
-- A repeated call gets the same answer while the run is open.
local id, run_json, text = ARGV[4], ARGV[5], ARGV[6]
local status, hash = exists() and read_status(id), redis.sha1hex(run_json)
if is_open(status) and get_field(id, 'resume_hash') == hash then return 1 end
if status ~= 'requires_action' then return 0 end
redis.call(
  'HSET', run_key(id), 'run_json', run_json, 'status', 'queued', 'worker', worker, 'lease', lease, 'resume_hash', hash
)
redis.call('SET', text_key(id), text)
redis.call('PUBLISH', 'run:' .. id, '')
return 1
