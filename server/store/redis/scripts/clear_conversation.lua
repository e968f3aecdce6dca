#!lua flags=allow-oom
-- Returns `deleted_runs`, and when the next sweep has to look at the conversation if it exists and has a time limit.
local call_id = ARGV[4]
local did_exist = exists()
if touched and not did_exist then delete_keys() end
if did_exist and delete_keys(call_id) then
  redis.call('HSET', conversation, 'touched', now, 'history_id', call_id)
  if fields[3] then redis.call('HSET', conversation, 'model', fields[3]) end
  redis.call('HSET', conversation, 'created', fields[5] or now, 'metadata', fields[6] or '{}')
  if seconds then redis.call('HSET', conversation, 'seconds', seconds) end
end
return {redis.call('LRANGE', deleted_runs, 0, -1), did_exist and get_due_time()}
