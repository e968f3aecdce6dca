#!lua flags=allow-oom
local place = is_there() and place_of(ARGV[4])
if not place then return 0 end
redis.call('LSET', messages, place, '')
redis.call('LREM', messages, 1, '')
if tonumber(known[4] or 0) > place then redis.call('HINCRBY', conversation, 'replay_from', -1) end
return 1
