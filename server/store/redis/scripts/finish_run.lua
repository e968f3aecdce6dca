#!lua flags=allow-oom
-- The run's messages follow the named arguments. The last of them, whose line begins with `reply_head`, has the run's
-- text; without messages, `run_json` has it. `replaces` is empty if no turn is replaced, and `usage_entry` if the usage
-- is not known. Returns the run's end, and what is to be added to the usage of the unlisted conversations.
local id, run_json, status, ended, delivered, context_starts = ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9]
local reply_head, replaces, excerpt, usage_entry, first_message = ARGV[10], ARGV[11], ARGV[12], ARGV[13], 14

-- Delete the newest messages, as far as they belong to the replaced run. Returns how many messages are left, or false
-- if none was deleted.
local function delete_turn()
  local count = redis.call('LLEN', messages)
  local left = count
  while left > 0 do
    local line = redis.call('LINDEX', messages, -1)
    if get_message_run(line) ~= replaces then break end
    keep_text(line)
    redis.call('RPOP', messages)
    left = left - 1
  end
  return left < count and left
end

local function replace_turn()
  local left = replaces ~= '' and delete_turn()
  local starts = cjson.decode(starts_json or '{}')
  if left then
    for model, start in pairs(starts) do starts[model] = math.min(start, left) end
    redis.call('HSET', conversation, 'context_starts', cjson.encode(starts), 'history_id', id)
  end
  local has_question = #ARGV > first_message
  if replaces ~= '' and has_question and redis.call('LLEN', messages) == 0 then
    redis.call('HDEL', conversation, 'excerpt')
    set_excerpt(excerpt)
  end
  for n = first_message, #ARGV do redis.call('RPUSH', messages, ARGV[n]) end
  redis.call('HSET', run_key(id), 'reply_index', redis.call('LLEN', messages) - 1, 'reply_head', reply_head)
  return starts
end

local function list_unlisted_usage()
  local entries = {}
  for _, entry in ipairs(redis.call('LRANGE', outbox, 0, -1)) do
    if string.sub(entry, 1, 1) == '$' then table.insert(entries, entry) end
  end
  return entries
end

local current, owner = read_status(id)
if not current or not exists() then return false end
if not is_open(current) then return {read_run(id), list_unlisted_usage()} end
redis.call('HSET', run_key(id), 'run_json', run_json, 'status', status, 'ended', ended)
if delivered == '1' then redis.call('HSET', run_key(id), 'delivered', 1) end
redis.call('HDEL', run_key(id), 'worker', 'lease', 'start_call_id', 'pause_hash', 'resume_hash', 'usage_entry')
redis.call('UNLINK', text_key(id))
redis.call('LREM', open_runs, 1, id)
local starts = #ARGV >= first_message and replace_turn()
if context_starts ~= '{}' then
  starts = starts or cjson.decode(starts_json or '{}')
  for model, start in pairs(cjson.decode(context_starts)) do starts[model] = start end
  redis.call('HSET', conversation, 'context_starts', cjson.encode(starts))
end
count_usage(usage_entry)
touch()
notify(id, owner)
notify_next(owner)
return {'ended', list_unlisted_usage()}
