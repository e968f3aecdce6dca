#!lua
-- `request` is the key that keeps the run of the request id, `asks` marks question and options: empty where there are
-- none. Messages follow the arguments that have names.
local id, kept, question, request, start = ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8] == '1'
local waiting, request_seconds, collect_seconds = tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11])
local asks, alone, create = ARGV[12], ARGV[13] == '1', ARGV[14] == '1'

local function with_request_id()
  local seen = redis.call('HMGET', request, 'run', 'begun')
  if not seen[1] or tonumber(now) - tonumber(seen[2]) > request_seconds then return false end
  local run = redis.call('HMGET', run_key(seen[1]), 'question', 'status')
  if run[1] ~= question then return false, 'conflict' end
  return run[2] ~= 'failed' and run[2] ~= 'interrupted' and run[2] ~= 'expired' and seen[1]
end

local function with_question(open)
  for _, each in ipairs(open) do
    if field(each, 'asks') == asks then return each end
  end
  local newest = redis.call('LINDEX', runs, -1)
  if not newest then return false end
  local run = redis.call('HMGET', run_key(newest), 'asks', 'status', 'collected', 'ended')
  return run[1] == asks and run[2] == 'completed' and not run[3]
    and tonumber(now) - tonumber(run[4]) <= collect_seconds and newest
end

local function count_queued(open)
  local queued = 0
  for _, each in ipairs(open) do
    if field(each, 'status') == 'queued' then queued = queued + 1 end
  end
  return queued
end

if not create and not is_there() then return 'missing' end
if has_expired() then return 'expired' end
local open = write_down_abandoned()
if redis.call('EXISTS', run_key(id)) == 1 then return {1, snapshot(), record(id)} end
local answering, refused
if request ~= '' then answering, refused = with_request_id() elseif asks ~= '' then answering = with_question(open) end
if refused then return refused end
if answering then return {0, snapshot(), record(answering)} end
local status = start and #open == 0 and 'running' or 'queued'
if (alone and #open > 0) or (status == 'queued' and count_queued(open) >= waiting) then return 'busy' end

redis.call('HSET', conversation, 'touched', now)
redis.call('HSETNX', conversation, 'created', now)
redis.call('HSETNX', conversation, 'history', id)
known = {now, known[2], known[3], known[4], known[5] or now, known[6], known[7] or id}
redis.call('HSET', run_key(id), 'kept', kept, 'question', question, 'status', status, 'writer', writer, 'lease', lease)
if asks ~= '' then redis.call('HSET', run_key(id), 'asks', asks) end
for place = 15, #ARGV do redis.call('RPUSH', messages, ARGV[place]) end
redis.call('RPUSH', runs, id)
redis.call('RPUSH', open_runs, id)
if request ~= '' then
  redis.call('HSET', run_key(id), 'request', request)
  redis.call('HSET', request, 'run', id, 'begun', now)
  redis.call('EXPIRE', request, request_seconds + 60)
end
return {1, snapshot(), status}
