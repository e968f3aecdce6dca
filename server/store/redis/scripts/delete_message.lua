#!lua flags=allow-oom
-- A repeated call has the same `call_id`, which is the history's id since the first one.
local head, call_id = ARGV[4], ARGV[5]
local index = exists() and find_index(head)
if not index then return exists() and history_id == call_id and 1 or 0 end
keep_text(redis.call('LINDEX', messages, index))
redis.call('HINCRBY', conversation, 'deleted_messages', 1)
redis.call('LSET', messages, index, '')
redis.call('LREM', messages, 1, '')
local starts = cjson.decode(starts_json or '{}')
for model, start in pairs(starts) do
  if start > index then starts[model] = start - 1 end
end
redis.call('HSET', conversation, 'context_starts', cjson.encode(starts), 'history_id', call_id)
return 1
