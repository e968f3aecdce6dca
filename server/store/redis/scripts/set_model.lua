#!lua
if has_expired() then return 'expired' end
redis.call('HSETNX', conversation, 'touched', now)
redis.call('HSETNX', conversation, 'created', now)
redis.call('HSETNX', conversation, 'history', ARGV[5])
redis.call('HSET', conversation, 'model', ARGV[4])
