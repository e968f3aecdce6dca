#!lua
if not is_there() then return 0 end
redis.call('HSET', conversation, 'touched', now)
return 1
