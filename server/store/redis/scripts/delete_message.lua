#!lua flags=allow-oom
-- A repeated call has the same `call_id`, which is the history's id since the first one.
local head, call_id = ARGV[4], ARGV[5]
local index = exists() and find_index(head)
if not index then return exists() and fields[7] == call_id and 1 or 0 end
-- If the message has a run's text, the run gets a copy.
local line = redis.call('LINDEX', messages, index)
local run_id = cjson.decode(string.match(line, '^[^\n]*'))[2]
if type(run_id) == 'string' and get_field(run_id, 'reply_head') == head then
  redis.call('HSET', run_key(run_id), 'reply_fragment', string.match(line, '^[^\n]*\n[^\n]*\n(.*)$'))
end
redis.call('HINCRBY', conversation, 'deleted_messages', 1)
redis.call('LSET', messages, index, '')
redis.call('LREM', messages, 1, '')
local starts = cjson.decode(fields[4] or '{}')
for model, start in pairs(starts) do
  if start > index then starts[model] = start - 1 end
end
redis.call('HSET', conversation, 'context_starts', cjson.encode(starts), 'history_id', call_id)
return 1
