#!lua
local id, kept, text, until_when = ARGV[4], ARGV[5], ARGV[6], ARGV[7]
if not is_there() or status_of(id) ~= 'running' then return 0 end
redis.call('HSET', run_key(id), 'kept', kept, 'status', 'requires_action', 'lease', until_when)
redis.call('HDEL', run_key(id), 'writer', 'started')
redis.call('SET', text_key(id), text)
redis.call('PUBLISH', 'run:' .. id, '')
return 1
