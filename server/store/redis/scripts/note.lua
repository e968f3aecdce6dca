#!lua
local id = ARGV[4]
if not is_there() or not status_of(id) then return false end
redis.call('HSET', run_key(id), 'details', ARGV[5])
return record(id)
