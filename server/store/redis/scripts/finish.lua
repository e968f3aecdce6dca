#!lua flags=allow-oom
-- The messages of the exchange follow the arguments that have names. The last of them, whose line begins with `head`,
-- has the run's text; without any, the run has it itself.
local id, kept, status, ended, collected, learnt = ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9]
local head, first = ARGV[10], 11
local found, holder = status_of(id)
if not found or not is_there() then return false end
if not is_open(found) then return record(id) end
redis.call('HSET', run_key(id), 'kept', kept, 'status', status, 'ended', ended)
if collected == '1' then redis.call('HSET', run_key(id), 'collected', 1) end
redis.call('HDEL', run_key(id), 'writer', 'lease', 'started', 'paused', 'resumed')
redis.call('UNLINK', text_key(id))
redis.call('LREM', open_runs, 1, id)
for place = first, #ARGV do redis.call('RPUSH', messages, ARGV[place]) end
if #ARGV >= first then
  redis.call('HSET', run_key(id), 'place', redis.call('LLEN', messages) - 1, 'head', head)
end
redis.call('HSET', conversation, 'touched', now)
if learnt ~= '{}' then
  local starts = cjson.decode(known[4] or '{}')
  for model, start in pairs(cjson.decode(learnt)) do starts[model] = start end
  redis.call('HSET', conversation, 'context_starts', cjson.encode(starts))
end
tell(id, holder)
tell_next(holder)
return 'ended'
