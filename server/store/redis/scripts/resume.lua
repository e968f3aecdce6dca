#!lua
-- The same call made again gets the same answer, while the run is open.
local id, kept, text = ARGV[4], ARGV[5], ARGV[6]
local status, mark = is_there() and status_of(id), redis.sha1hex(kept)
if is_open(status) and field(id, 'resumed') == mark then return 1 end
if status ~= 'requires_action' then return 0 end
redis.call('HSET', run_key(id), 'kept', kept, 'status', 'queued', 'writer', writer, 'lease', lease, 'resumed', mark)
redis.call('SET', text_key(id), text)
redis.call('PUBLISH', 'run:' .. id, '')
return 1
