#!lua
-- Messages follow the named arguments, as many as `message_count`; then eight values for each run. `reply_index` is the
-- index among these messages of the one that has the run's text, and empty if `run_json` has it.
local recent, excerpt, message_count, first_message = tonumber(ARGV[4]), ARGV[5], tonumber(ARGV[6]), 7
local first_run = first_message + message_count
if not exists() then return 0 end
if has_added(recent, first_message, first_run - 1) then return 1 end
if ARGV[first_run] and redis.call('EXISTS', run_key(ARGV[first_run])) == 1 then return 1 end
local count = redis.call('LLEN', messages)
for n = first_message, first_run - 1 do redis.call('RPUSH', messages, ARGV[n]) end
for n = first_run, #ARGV, 8 do
  local id, run_json, status, ended, delivered, question_hash, reply_index, reply_head = unpack(ARGV, n, n + 7)
  redis.call('HSET', run_key(id), 'run_json', run_json, 'status', status, 'ended', ended)
  if delivered == '1' then redis.call('HSET', run_key(id), 'delivered', 1) end
  if question_hash ~= '' then redis.call('HSET', run_key(id), 'question_hash', question_hash) end
  if reply_index ~= '' then
    redis.call('HSET', run_key(id), 'reply_index', count + tonumber(reply_index), 'reply_head', reply_head)
  end
  redis.call('RPUSH', runs, id)
end
set_excerpt(excerpt)
touch()
return 1
