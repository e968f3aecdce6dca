#!lua
if not exists() then return false end
redis.call('HSET', conversation, 'metadata', ARGV[4])
fields[6] = ARGV[4]
return read_conversation()
