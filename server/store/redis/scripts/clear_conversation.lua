#!lua flags=allow-oom
-- Returns `outbox`, and when the next sweep has to look at the conversation if it exists and has a time limit.
local call_id = ARGV[4]
local did_exist = exists()
if touched and not did_exist then delete_keys() end
if did_exist and delete_history(call_id) then
  touch()
  redis.call('HSETNX', conversation, 'created', now)
  redis.call('HSET', conversation, 'history_id', call_id)
  redis.call('HDEL', conversation, 'context_starts', 'deleted_messages', 'excerpt')
end
return {redis.call('LRANGE', outbox, 0, -1), did_exist and get_due_time()}
