#!lua
-- An existing conversation is left as it is. `name` is empty if the new one is unlisted; otherwise its entry in the index
-- is written, as is that of its owner if it has one. Messages follow the named arguments.
local name, owner, time_limit, metadata, new_history_id = ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local is_importing, excerpt, first_message = ARGV[9] == '1', ARGV[10], 11
if has_expired() then return 'expired' end
if touched then return {read_conversation()} end
make_conversation(name, new_history_id, owner)
redis.call('HSET', conversation, 'metadata', metadata)
if time_limit ~= '' then redis.call('HSET', conversation, 'seconds', time_limit) end
if is_importing then redis.call('HSET', conversation, 'importing', 1) end
for n = first_message, #ARGV do redis.call('RPUSH', messages, ARGV[n]) end
set_excerpt(excerpt)
return {read_conversation()}
