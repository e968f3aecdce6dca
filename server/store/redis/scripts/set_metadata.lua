#!lua
if not is_there() then return false end
redis.call('HSET', conversation, 'metadata', ARGV[4])
known[6] = ARGV[4]
return snapshot()
