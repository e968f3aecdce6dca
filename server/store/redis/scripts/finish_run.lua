#!lua flags=allow-oom
-- The run's messages follow the named arguments. The last of them, whose line begins with `reply_head`, has the run's
-- text; without messages, `run_json` has it.
local id, run_json, status, ended, delivered, context_starts = ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9]
local reply_head, first_message = ARGV[10], 11
local current, owner = read_status(id)
if not current or not exists() then return false end
if not is_open(current) then return read_run(id) end
redis.call('HSET', run_key(id), 'run_json', run_json, 'status', status, 'ended', ended)
if delivered == '1' then redis.call('HSET', run_key(id), 'delivered', 1) end
redis.call('HDEL', run_key(id), 'worker', 'lease', 'start_call_id', 'pause_hash', 'resume_hash')
redis.call('UNLINK', text_key(id))
redis.call('LREM', open_runs, 1, id)
for n = first_message, #ARGV do redis.call('RPUSH', messages, ARGV[n]) end
if #ARGV >= first_message then
  redis.call('HSET', run_key(id), 'reply_index', redis.call('LLEN', messages) - 1, 'reply_head', reply_head)
end
redis.call('HSET', conversation, 'touched', now)
if context_starts ~= '{}' then
  local starts = cjson.decode(fields[4] or '{}')
  for model, start in pairs(cjson.decode(context_starts)) do starts[model] = start end
  redis.call('HSET', conversation, 'context_starts', cjson.encode(starts))
end
notify(id, owner)
notify_next(owner)
return 'ended'
