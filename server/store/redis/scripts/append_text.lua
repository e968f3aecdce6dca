#!lua flags=allow-oom
local id, at, text = ARGV[4], tonumber(ARGV[5]), ARGV[6]
if read_status(id) ~= 'running' then return 0 end
if redis.call('STRLEN', text_key(id)) > at then
  local before = at > 0 and redis.call('GETRANGE', text_key(id), 0, at - 1) or ''
  redis.call('SET', text_key(id), before .. text)
else
  redis.call('APPEND', text_key(id), text)
end
redis.call('HSET', run_key(id), 'lease', lease)
redis.call('PUBLISH', 'run:' .. id, '')
return 1
