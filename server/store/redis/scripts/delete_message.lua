#!lua flags=allow-oom
-- The same call, made again because its answer was lost, comes with the same mark, which the history has since.
local place = is_there() and place_of(ARGV[4])
if not place then return is_there() and known[7] == ARGV[5] and 1 or 0 end
-- The run whose reply it is takes its text back.
local line = redis.call('LINDEX', messages, place)
local run_id = cjson.decode(string.match(line, '^[^\n]*'))[2]
if type(run_id) == 'string' and field(run_id, 'head') == ARGV[4] then
  redis.call('HSET', run_key(run_id), 'reply', string.match(line, '^[^\n]*\n[^\n]*\n(.*)$'))
end
redis.call('HINCRBY', conversation, 'deleted', 1)
redis.call('LSET', messages, place, '')
redis.call('LREM', messages, 1, '')
local starts = cjson.decode(known[4] or '{}')
for model, start in pairs(starts) do
  if start > place then starts[model] = start - 1 end
end
redis.call('HSET', conversation, 'context_starts', cjson.encode(starts), 'history', ARGV[5])
return 1
