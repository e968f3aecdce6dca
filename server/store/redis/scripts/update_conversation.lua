#!lua
-- `name` is empty until the conversation's entries in the indexes are written; `owner` is as for `make_conversation`.
-- The names of fields to remove follow the named arguments, as many as `removed`; then each field to set and its value.
local name, owner, create, new_history_id = ARGV[4], ARGV[5], ARGV[6] == '1', ARGV[7]
local removed, first = tonumber(ARGV[8]), 9
if not create and not exists() then return false end
if has_expired() then return 'expired' end
if create and needs_entry then
  if name == '' then return 'unlisted' end
  make_conversation(name, new_history_id, owner)
end
for n = first, first + removed - 1 do redis.call('HDEL', conversation, ARGV[n]) end
for n = first + removed, #ARGV, 2 do redis.call('HSET', conversation, ARGV[n], ARGV[n + 1]) end
return {read_conversation()}
