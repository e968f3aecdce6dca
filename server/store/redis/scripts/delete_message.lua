#!lua flags=allow-oom
local place = is_there() and place_of(ARGV[4])
if not place then return 0 end
redis.call('LSET', messages, place, '')
redis.call('LREM', messages, 1, '')
local starts = cjson.decode(known[4] or '{}')
for model, start in pairs(starts) do
  if start > place then starts[model] = start - 1 end
end
redis.call('HSET', conversation, 'context_starts', cjson.encode(starts), 'history', ARGV[5])
return 1
