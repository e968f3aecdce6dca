#!lua flags=allow-oom
-- Take a tag off the list, unless it is to be looked at later than ARGV[2]: a new conversation may have its name.
local due = redis.call('ZSCORE', KEYS[1], ARGV[1])
if due and tonumber(due) <= tonumber(ARGV[2]) then redis.call('ZREM', KEYS[1], ARGV[1]) end
