#!lua
-- One that is there is left as it is. Messages follow the arguments that have names.
local seconds_kept, metadata, history = ARGV[4], ARGV[5], ARGV[6]
if has_expired() then return 'expired' end
if is_there() then return snapshot() end
known = {now, false, false, false, now, metadata, history}
redis.call('HSET', conversation, 'touched', now, 'created', now, 'metadata', metadata, 'history', history)
if seconds_kept ~= '' then redis.call('HSET', conversation, 'seconds', seconds_kept) end
for place = 7, #ARGV do redis.call('RPUSH', messages, ARGV[place]) end
return snapshot()
