-- What every script begins with. All keys of a conversation begin with KEYS[1], so that they carry its hash tag.
-- Times are Unix seconds as Python wrote them: compared as numbers, kept and given back as that very text.
local conversation, now, lease, writer = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local messages, runs, open_runs = conversation .. ':messages', conversation .. ':runs', conversation .. ':open'
local gone = conversation .. ':gone'
local known = redis.call(
  'HMGET', conversation, 'touched', 'seconds', 'model', 'context_starts', 'created', 'metadata', 'history', 'deleted'
)
local touched, seconds = known[1], known[2]

local function run_key(id) return conversation .. ':run:' .. id end
local function text_key(id) return conversation .. ':text:' .. id end
local function field(id, name) return redis.call('HGET', run_key(id), name) end
local function is_open(status) return status == 'queued' or status == 'running' or status == 'requires_action' end

-- A run's status as this writer reads it, false where it is gone, and who writes it while its end is not written. A
-- writer's own runs are never abandoned to itself; one that requires action has no writer, and waits until its lease.
local function status_of(id)
  local run = redis.call('HMGET', run_key(id), 'status', 'writer', 'lease')
  if run[1] == 'requires_action' and tonumber(now) > tonumber(run[3]) then return 'expired', run[2] end
  if run[1] ~= 'requires_action' and is_open(run[1]) and run[2] ~= writer and tonumber(now) > tonumber(run[3]) then return 'interrupted', run[2] end
  return run[1], run[2]
end

-- The open runs that are not abandoned, oldest first.
local function live_runs()
  local live = {}
  for _, id in ipairs(redis.call('LRANGE', open_runs, 0, -1)) do
    if is_open(status_of(id)) then table.insert(live, id) end
  end
  return live
end

-- Whether the conversation was made and has expired, though nobody may have swept it away yet.
local function has_expired()
  return seconds and tonumber(now) - tonumber(touched) > tonumber(seconds) and #live_runs() == 0
end

local function is_there() return touched and not has_expired() end

local function snapshot()
  return {known[3], redis.call('LLEN', messages), known[4], known[5], known[1], known[6], known[7]}
end

-- The fragment of the message that has a run's text, whose line begins with `head`: at the place that it was added at,
-- or before it, by as many places as messages were deleted since. False where the run has its text itself.
local function reply_of(id)
  local place, head, own = unpack(redis.call('HMGET', run_key(id), 'place', 'head', 'reply'))
  if own or not place then return own end
  for at = tonumber(place), math.max(tonumber(place) - tonumber(known[8] or 0), 0), -1 do
    local line = redis.call('LINDEX', messages, at)
    if line and string.sub(line, 1, #head) == head then return string.match(line, '^[^\n]*\n[^\n]*\n(.*)$') end
  end
  return false
end

-- A run as it was begun or ended; where its writer has not ended it, also what has become of it.
local function record(id)
  local run = redis.call('HMGET', run_key(id), 'kept', 'collected', 'ended', 'lost', 'details')
  if not run[1] then return false end
  if run[3] then return {run[1], run[2], run[5], reply_of(id)} end
  local status = status_of(id)
  local lost = run[4] or (not is_open(status) and now)
  return {run[1], run[2], run[5], status, redis.call('GET', text_key(id)) or '', lost}
end

-- Tell who follows a run that it has changed, and its writer, where that is another.
local function tell(id, holder)
  redis.call('PUBLISH', 'run:' .. id, '')
  if holder and holder ~= writer then redis.call('PUBLISH', 'writer:' .. holder, id) end
end

-- Tell the writer whose turn has come with the end of a run of `holder`; who ended its own looks without being told.
local function tell_next(holder)
  local next = live_runs()[1]
  if not next then return end
  local status, next_holder = status_of(next)
  if status == 'queued' and not (holder == writer and next_holder == writer) then
    redis.call('PUBLISH', 'writer:' .. next_holder, next)
  end
end

-- Gives the open runs that are left, oldest first.
local function write_down_abandoned()
  for _, id in ipairs(redis.call('LRANGE', open_runs, 0, -1)) do
    local status, holder = status_of(id)
    if not is_open(status) then
      redis.call('HSET', run_key(id), 'status', status, 'lost', now)
      redis.call('HDEL', run_key(id), 'writer', 'lease', 'started')
      redis.call('LREM', open_runs, 1, id)
      tell(id, holder)
      tell_next(holder)
    end
  end
  return redis.call('LRANGE', open_runs, 0, -1)
end

-- The place of the message whose line begins with `head`; false where there is none.
local function place_of(head)
  local last = redis.call('LLEN', messages) - 1
  while last >= 0 do
    local first = math.max(last - 99, 0)
    local part = redis.call('LRANGE', messages, first, last)
    for place = #part, 1, -1 do
      if string.sub(part[place], 1, #head) == head then return first + place - 1 end
    end
    last = first - 1
  end
  return false
end

-- When the conversation is to be looked at again, where it expires.
local function due()
  return seconds and string.format('%.17g', math.max(tonumber(touched) + tonumber(seconds), tonumber(now)))
end

-- Delete all keys of the conversation. Its runs are in `gone` until nobody finds them by `run:ID` any more, which is on
-- another node: `+ID` for those that were open, `-ID` for the others, and `=MARK` for the call. False, and nothing is
-- deleted, where the same call was made before.
local function forget(mark)
  if mark and redis.call('LPOS', gone, '=' .. mark) then return false end
  local was_open = {}
  for _, id in ipairs(live_runs()) do was_open[id] = true end
  for _, id in ipairs(redis.call('LRANGE', open_runs, 0, -1)) do tell(id, field(id, 'writer')) end
  for _, id in ipairs(redis.call('LRANGE', runs, 0, -1)) do
    local request = field(id, 'request')
    if request then redis.call('UNLINK', request) end
    redis.call('UNLINK', run_key(id), text_key(id))
    redis.call('RPUSH', gone, (was_open[id] and '+' or '-') .. id)
  end
  redis.call('UNLINK', conversation, messages, runs, open_runs)
  if mark then redis.call('RPUSH', gone, '=' .. mark) end
  return true
end
