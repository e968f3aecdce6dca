#!lua
-- An existing conversation is left as it is. Messages follow the named arguments.
local time_limit, metadata, history_id, first_message = ARGV[4], ARGV[5], ARGV[6], 7
if has_expired() then return 'expired' end
if exists() then return read_conversation() end
fields = {now, false, false, false, now, metadata, history_id}
redis.call('HSET', conversation, 'touched', now, 'created', now, 'metadata', metadata, 'history_id', history_id)
if time_limit ~= '' then redis.call('HSET', conversation, 'seconds', time_limit) end
for n = first_message, #ARGV do redis.call('RPUSH', messages, ARGV[n]) end
return read_conversation()
