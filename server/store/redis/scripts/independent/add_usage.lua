#!lua flags=allow-oom
-- Names of counts follow the named arguments, each with the number to add. What has the same id is added once.
local usage, id = KEYS[1], ARGV[1]
if not redis.call('SET', usage .. ':added:' .. id, 1, 'NX', 'EX', 3600) then return end
for n = 2, #ARGV, 2 do redis.call('HINCRBY', usage, ARGV[n], ARGV[n + 1]) end
