#!lua
local model, history_id = ARGV[4], ARGV[5]
if has_expired() then return 'expired' end
redis.call('HSETNX', conversation, 'touched', now)
redis.call('HSETNX', conversation, 'created', now)
redis.call('HSETNX', conversation, 'history_id', history_id)
redis.call('HSET', conversation, 'model', model)
