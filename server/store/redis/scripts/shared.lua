-- The beginning of every script. All keys of a conversation begin with KEYS[1], and so carry its hash tag.
-- Times are Unix seconds as Python wrote them: compared as numbers, stored and returned as that same text.
local conversation, now, lease, worker = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local messages, runs, open_runs = conversation .. ':messages', conversation .. ':runs', conversation .. ':open_runs'
local usage, outbox = conversation .. ':usage', conversation .. ':outbox'
local touched, seconds, starts_json, history_id, deleted_messages, listed = unpack(redis.call(
  'HMGET', conversation, 'touched', 'seconds', 'context_starts', 'history_id', 'deleted_messages', 'listed'
))
-- `listed` is the name under which the conversation is in the index, and empty if it is unlisted. One that was stored
-- before there was an index is unlisted if it has a time limit; otherwise it is listed when it is used again.
local is_unlisted = listed == '' or (not listed and seconds)
-- Whether this call lists the conversation, so that its entry in the index must have been written before.
local needs_entry = not touched or not (listed or seconds)

-- Whether it waits for its publication.
local function is_importing() return seconds and redis.call('HEXISTS', conversation, 'importing') == 1 end

local function run_key(id) return conversation .. ':run:' .. id end
local function text_key(id) return conversation .. ':text:' .. id end
local function get_field(id, name) return redis.call('HGET', run_key(id), name) end
local function is_open(status) return status == 'queued' or status == 'running' or status == 'requires_action' end

-- A run's status as this worker reads it, false if the run is missing; and the run's worker, while the run's end is not
-- written. A worker never reads its own runs as abandoned. A run that requires action has no worker, and expires with
-- its lease.
local function read_status(id)
  local status, owner, lease_end = unpack(redis.call('HMGET', run_key(id), 'status', 'worker', 'lease'))
  if not is_open(status) then return status, owner end
  local is_over = tonumber(now) > tonumber(lease_end)
  if status == 'requires_action' then return is_over and 'expired' or status, owner end
  return is_over and owner ~= worker and 'interrupted' or status, owner
end

-- The open runs that are not abandoned, oldest first.
local function list_live_runs()
  local live = {}
  for _, id in ipairs(redis.call('LRANGE', open_runs, 0, -1)) do
    if is_open(read_status(id)) then table.insert(live, id) end
  end
  return live
end

-- Whether the conversation has expired, although no sweep may have deleted it yet.
local function has_expired()
  return seconds and tonumber(now) - tonumber(touched) > tonumber(seconds) and #list_live_runs() == 0
end

local function exists() return touched and not has_expired() end

-- It never moves back, although the clocks of workers differ; so it is the latest time that was written to the index.
local function touch()
  if not touched or tonumber(now) > tonumber(touched) then
    touched = now
    redis.call('HSET', conversation, 'touched', now)
  end
end

-- `owner` is a JSON array of the owner and the conversation's name, and empty without an owner.
local function make_conversation(name, new_history_id, owner)
  if owner ~= '' and not touched then redis.call('HSET', conversation, 'owner', owner) end
  redis.call('HSETNX', conversation, 'touched', now)
  redis.call('HSETNX', conversation, 'created', now)
  redis.call('HSETNX', conversation, 'history_id', new_history_id)
  redis.call('HSET', conversation, 'listed', name)
end

local function read_conversation()
  return {redis.call('LLEN', messages), redis.call('HGETALL', conversation)}
end

local function set_excerpt(excerpt)
  if excerpt ~= '' then redis.call('HSETNX', conversation, 'excerpt', excerpt) end
end

-- Whether the first of the messages in ARGV, up to the index `last`, is among the recent ones already.
local function has_added(recent, first, last)
  local head = first <= last and string.match(ARGV[first], '^[^,]*,')
  for n = 1, head and last - first + 1 + recent or 0 do
    local line = redis.call('LINDEX', messages, -n)
    if not line then return false end
    if string.sub(line, 1, #head) == head then return true end
  end
  return false
end

-- The id of the run to which a message belongs, or another value if it belongs to none.
local function get_message_run(line) return cjson.decode(string.match(line, '^[^\n]*'))[2] end

-- Give a run a copy of its text if the message that is about to be deleted has it.
local function keep_text(line)
  local id = get_message_run(line)
  local head = type(id) == 'string' and get_field(id, 'reply_head')
  if head and string.sub(line, 1, #head) == head then
    redis.call('HSET', run_key(id), 'reply_fragment', string.match(line, '^[^\n]*\n[^\n]*\n(.*)$'))
  end
end

-- The fragment of the message that has a run's text; false if the run has its text itself. The message is found by how
-- its line begins: at the index at which it was added, or before it by at most the number of messages deleted since.
local function find_reply(id)
  local index, head, fragment = unpack(redis.call('HMGET', run_key(id), 'reply_index', 'reply_head', 'reply_fragment'))
  if fragment or not index then return fragment end
  for at = tonumber(index), math.max(tonumber(index) - tonumber(deleted_messages or 0), 0), -1 do
    local line = redis.call('LINDEX', messages, at)
    if line and string.sub(line, 1, #head) == head then return string.match(line, '^[^\n]*\n[^\n]*\n(.*)$') end
  end
  return false
end

-- A run as it was written last; if its worker has not ended it, also its status, which is the last one that it had if it
-- is abandoned, its text, and when it was abandoned.
local function read_run(id)
  local run = redis.call(
    'HMGET', run_key(id), 'run_json', 'delivered', 'ended', 'abandoned', 'details', 'status', 'last_status'
  )
  if not run[1] then return false end
  if run[3] then return {run[1], run[2], run[5], find_reply(id)} end
  local status = read_status(id)
  local abandoned = run[4] or (not is_open(status) and now)
  if abandoned then status = run[7] or run[6] end
  return {run[1], run[2], run[5], status, redis.call('GET', text_key(id)) or '', abandoned}
end

-- Notify the followers of a run, and its worker if that is another one, that the run has changed.
local function notify(id, owner)
  redis.call('PUBLISH', 'run:' .. id, '')
  if owner and owner ~= worker then redis.call('PUBLISH', 'worker:' .. owner, id) end
end

-- Notify the worker of the next run, after a run of `owner` has ended. A worker that ended its own run needs no
-- notification about its own next run.
local function notify_next(owner)
  local next = list_live_runs()[1]
  if not next then return end
  local status, next_owner = read_status(next)
  if status == 'queued' and not (owner == worker and next_owner == worker) then
    redis.call('PUBLISH', 'worker:' .. next_owner, next)
  end
end

-- Add what an entry says to the conversation's usage; nothing if it is false or empty. That of an unlisted conversation
-- is left in `outbox`, for a key on another node.
local function count_usage(entry)
  if not entry or entry == '' then return end
  if is_unlisted then return redis.call('RPUSH', outbox, entry) end
  local counts = cjson.decode(string.sub(entry, 2))
  for n = 2, #counts, 2 do redis.call('HINCRBY', usage, counts[n], counts[n + 1]) end
end

-- Write the ends of abandoned runs. Returns the remaining open runs, oldest first.
local function end_abandoned_runs()
  for _, id in ipairs(redis.call('LRANGE', open_runs, 0, -1)) do
    local status, owner = read_status(id)
    if not is_open(status) then
      redis.call('HSET', run_key(id), 'last_status', get_field(id, 'status'), 'status', status, 'abandoned', now)
      count_usage(get_field(id, 'usage_entry'))
      redis.call('HDEL', run_key(id), 'worker', 'lease', 'start_call_id', 'usage_entry')
      redis.call('LREM', open_runs, 1, id)
      notify(id, owner)
      notify_next(owner)
    end
  end
  return redis.call('LRANGE', open_runs, 0, -1)
end

-- The index of the message whose line begins with `head`; false if there is none.
local function find_index(head)
  local last = redis.call('LLEN', messages) - 1
  while last >= 0 do
    local first = math.max(last - 99, 0)
    local part = redis.call('LRANGE', messages, first, last)
    for n = #part, 1, -1 do
      if string.sub(part[n], 1, #head) == head then return first + n - 1 end
    end
    last = first - 1
  end
  return false
end

-- When the next sweep has to look at the conversation; nil or false if it has no time limit.
local function get_due_time()
  return seconds and string.format('%.17g', math.max(tonumber(touched) + tonumber(seconds), tonumber(now)))
end

-- What is left to do on other nodes, and the calls that are done, are listed in `outbox`: `+ID` for each run that was
-- open and `-ID` for each other one, whose key `run:ID` is to be deleted; `@NAME` for the entry in the index, to be
-- deleted too; `%JSON` for the entry in the index of its owner; `$JSON` for usage that is to be added to that of the
-- unlisted conversations, with an id that makes it count once; `~JSON` for a run as it was, whose budget is to be
-- settled; and `=CALL_ID` for the call.

-- Delete messages, runs and request ids. Returns false and deletes nothing if the call is repeated.
local function delete_history(call_id)
  if call_id and redis.call('LPOS', outbox, '=' .. call_id) then return false end
  local was_open = {}
  for _, id in ipairs(list_live_runs()) do was_open[id] = true end
  for _, id in ipairs(redis.call('LRANGE', open_runs, 0, -1)) do
    local run = read_run(id)
    local has_charge = run and string.find(run[1], '"charge":{', 1, true)
    if has_charge then redis.call('RPUSH', outbox, '~' .. cjson.encode(run)) end
    notify(id, get_field(id, 'worker'))
  end
  for _, id in ipairs(redis.call('LRANGE', runs, 0, -1)) do
    local request_key = get_field(id, 'request_key')
    if request_key then redis.call('UNLINK', request_key) end
    redis.call('UNLINK', run_key(id), text_key(id))
    redis.call('RPUSH', outbox, (was_open[id] and '+' or '-') .. id)
  end
  redis.call('UNLINK', messages, runs, open_runs)
  if call_id then redis.call('RPUSH', outbox, '=' .. call_id) end
  return true
end

-- Delete all keys of the conversation but `outbox`, unless the call is repeated.
local function delete_keys(call_id)
  if not delete_history(call_id) then return end
  local totals = redis.call('HGETALL', usage)
  if #totals > 0 then
    table.insert(totals, 1, 'history ' .. (history_id or touched))
    redis.call('RPUSH', outbox, '$' .. cjson.encode(totals))
  end
  if listed and listed ~= '' then redis.call('RPUSH', outbox, '@' .. listed) end
  local owner = redis.call('HGET', conversation, 'owner')
  if owner then redis.call('RPUSH', outbox, '%' .. owner) end
  redis.call('UNLINK', conversation, usage)
end
