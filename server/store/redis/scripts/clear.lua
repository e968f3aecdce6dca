#!lua flags=allow-oom
if not is_there() then return {{}, {}} end
local forgotten = forget()
redis.call('HSET', conversation, 'touched', now, 'history', ARGV[4])
if known[3] then redis.call('HSET', conversation, 'model', known[3]) end
redis.call('HSET', conversation, 'created', known[5] or now, 'metadata', known[6] or '{}')
if seconds then redis.call('HSET', conversation, 'seconds', seconds) end
return forgotten
