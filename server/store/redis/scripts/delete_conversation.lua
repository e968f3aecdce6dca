#!lua flags=allow-oom
-- Returns `outbox`, and when the next sweep has to look at the conversation if it stays and has a time limit. It stays if
-- it was used since `unused_since`, unless that is empty.
local call_id, unused_since = ARGV[4], ARGV[5]
local stays = touched and unused_since ~= ''
  and (tonumber(touched) >= tonumber(unused_since) or #list_live_runs() > 0)
if touched and not stays then delete_keys(call_id) end
return {redis.call('LRANGE', outbox, 0, -1), stays and get_due_time()}
