#!lua
local id = ARGV[4]
if not exists() or not read_status(id) then return false end
redis.call('HSET', run_key(id), 'details', ARGV[5])
return read_run(id)
