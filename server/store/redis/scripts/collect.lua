#!lua
local id = ARGV[4]
local status, holder = status_of(id)
if is_there() and status and not holder then redis.call('HSET', run_key(id), 'collected', 1) end
