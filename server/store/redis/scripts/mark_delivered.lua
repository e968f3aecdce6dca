#!lua
local id = ARGV[4]
local status, owner = read_status(id)
if exists() and status and not owner then redis.call('HSET', run_key(id), 'delivered', 1) end
