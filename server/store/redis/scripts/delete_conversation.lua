#!lua flags=allow-oom
-- Returns `outbox`. The second value is false: no sweep has to look at the conversation again.
if touched then delete_keys(ARGV[4]) end
return {redis.call('LRANGE', outbox, 0, -1), false}
