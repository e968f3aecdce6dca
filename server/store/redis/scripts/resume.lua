#!lua
local id, kept, text = ARGV[4], ARGV[5], ARGV[6]
if not is_there() or status_of(id) ~= 'requires_action' then return 0 end
redis.call('HSET', run_key(id), 'kept', kept, 'status', 'queued', 'writer', writer, 'lease', lease)
redis.call('SET', text_key(id), text)
redis.call('PUBLISH', 'run:' .. id, '')
return 1
