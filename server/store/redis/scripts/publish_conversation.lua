#!lua
-- The conversation's entry in the index is written.
local name, created, last_touched = ARGV[4], ARGV[5], ARGV[6]
if not exists() then return false end
redis.call('HSET', conversation, 'listed', name, 'created', created, 'touched', last_touched)
redis.call('HDEL', conversation, 'seconds', 'importing')
return {read_conversation()}
