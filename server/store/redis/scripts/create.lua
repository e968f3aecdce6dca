#!lua
if has_expired() then return 'expired' end
known = {now, false, false, false, now, ARGV[5]}
redis.call('HSET', conversation, 'touched', now, 'created', now, 'metadata', ARGV[5])
if ARGV[4] ~= '' then redis.call('HSET', conversation, 'seconds', ARGV[4]) end
return snapshot()
