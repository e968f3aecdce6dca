#!lua
-- The same call made again gets the same answer, also where the run goes on since.
local id, kept, text, until_when = ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local status, mark = is_there() and status_of(id), redis.sha1hex(kept)
if status and field(id, 'paused') == mark then return 1 end
if status ~= 'running' then return 0 end
redis.call('HSET', run_key(id), 'kept', kept, 'status', 'requires_action', 'lease', until_when, 'paused', mark)
redis.call('HDEL', run_key(id), 'writer', 'started')
redis.call('SET', text_key(id), text)
redis.call('PUBLISH', 'run:' .. id, '')
return 1
