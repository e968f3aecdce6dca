#!lua
if not exists() then return 0 end
if seconds then redis.call('HSET', conversation, 'touched', now) end
return 1
