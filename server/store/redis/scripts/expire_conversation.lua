#!lua flags=allow-oom
-- Returns `outbox`, and when the next sweep has to look at the conversation if it exists and has a time limit.
local does_exist = exists()
if touched and not does_exist then delete_keys() end
return {redis.call('LRANGE', outbox, 0, -1), does_exist and get_due_time()}
