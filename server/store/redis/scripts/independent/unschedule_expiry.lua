#!lua flags=allow-oom
-- Unschedule a tag unless it is due after `last`: then a new conversation has the same name.
local tag, last = ARGV[1], tonumber(ARGV[2])
local due = redis.call('ZSCORE', KEYS[1], tag)
if due and tonumber(due) <= last then redis.call('ZREM', KEYS[1], tag) end
