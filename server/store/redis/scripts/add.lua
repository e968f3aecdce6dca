#!lua
-- The messages follow the arguments that have names.
if not is_there() then return 'missing' end
if #write_down_abandoned() > 0 then return 'busy' end
for place = 4, #ARGV do redis.call('RPUSH', messages, ARGV[place]) end
redis.call('HSET', conversation, 'touched', now)
return 'added'
