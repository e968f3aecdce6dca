#!lua
-- `name` is empty until the conversation's entries in the indexes are written; `owner` is as for `make_conversation`.
-- `request_key` is the key of the request id, and empty without one. `question_hash` covers question, options and the
-- replaced run, and is empty if there is neither a question nor such a run. With `only_join`, no run is created.
-- Messages follow the named arguments.
local name, owner, id, run_json, question_text_hash, request_key = ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9]
local start, waiting, request_id_seconds, redelivery_seconds = ARGV[10] == '1', tonumber(ARGV[11]), ARGV[12], ARGV[13]
local question_hash, reject_if_busy, create_conversation = ARGV[14], ARGV[15] == '1', ARGV[16] == '1'
local replaces, excerpt, only_join, first_message = ARGV[17], ARGV[18], ARGV[19] == '1', 20

-- Whether the rate limit counts the run, and its budget has its tokens, if their keys are given.
local function is_admitted()
  for n = 2, #KEYS do
    local is_rate = string.sub(KEYS[n], 1, 5) == 'rate:'
    if not redis.call(is_rate and 'ZSCORE' or 'HGET', KEYS[n], id) then return false end
  end
  return true
end

local function find_by_request_id()
  local earlier_id, created = unpack(redis.call('HMGET', request_key, 'run_id', 'created'))
  if not earlier_id or tonumber(now) - tonumber(created) > tonumber(request_id_seconds) then return false end
  local text_hash, status = unpack(redis.call('HMGET', run_key(earlier_id), 'question_text_hash', 'status'))
  if text_hash ~= question_text_hash then return false, 'conflict' end
  return status ~= 'failed' and status ~= 'interrupted' and status ~= 'expired' and earlier_id
end

local function find_by_question(open)
  for _, each in ipairs(open) do
    if get_field(each, 'question_hash') == question_hash then return each end
  end
  local newest = redis.call('LINDEX', runs, -1)
  if not newest then return false end
  local run = redis.call('HMGET', run_key(newest), 'question_hash', 'status', 'delivered', 'ended')
  return run[1] == question_hash and run[2] == 'completed' and not run[3]
    and tonumber(now) - tonumber(run[4]) <= tonumber(redelivery_seconds) and newest
end

local function is_last_turn(run_id)
  local line = redis.call('LINDEX', messages, -1)
  return line and get_message_run(line) == run_id
end

local function count_queued(open)
  local queued = 0
  for _, each in ipairs(open) do
    if get_field(each, 'status') == 'queued' then queued = queued + 1 end
  end
  return queued
end

if not create_conversation and not exists() then return 'missing' end
if has_expired() then return 'expired' end
if is_importing() then return 'importing' end
if not is_admitted() then only_join = true end
if only_join and not touched then return 'limited' end
if needs_entry and name == '' then return 'unlisted' end
local open = end_abandoned_runs()
if redis.call('EXISTS', run_key(id)) == 1 then return {read_conversation(), 1, read_run(id)} end
local existing, refusal
if request_key ~= '' then
  existing, refusal = find_by_request_id()
elseif question_hash ~= '' then
  existing = find_by_question(open)
end
if refusal then return refusal end
if existing then return {read_conversation(), 0, read_run(existing)} end
if replaces ~= '' and not is_last_turn(replaces) then return 'not last' end
local status = start and #open == 0 and 'running' or 'queued'
if (reject_if_busy and #open > 0) or (status == 'queued' and count_queued(open) >= waiting) then return 'busy' end
if only_join then return 'limited' end

if needs_entry then make_conversation(name, id, owner) end
touch()
set_excerpt(excerpt)
redis.call(
  'HSET', run_key(id), 'run_json', run_json, 'question_text_hash', question_text_hash, 'status', status,
  'worker', worker, 'lease', lease
)
if question_hash ~= '' then redis.call('HSET', run_key(id), 'question_hash', question_hash) end
for n = first_message, #ARGV do redis.call('RPUSH', messages, ARGV[n]) end
redis.call('RPUSH', runs, id)
redis.call('RPUSH', open_runs, id)
if request_key ~= '' then
  redis.call('HSET', run_key(id), 'request_key', request_key)
  redis.call('HSET', request_key, 'run_id', id, 'created', now)
  redis.call('EXPIRE', request_key, tonumber(request_id_seconds) + 60)
end
return {read_conversation(), 1, status}
