#!lua
if has_expired() then return 'expired' end
redis.call('HSETNX', conversation, 'touched', now)
redis.call('HSET', conversation, 'seconds', ARGV[4])
