#!lua flags=allow-oom
-- Gives `gone`, and when to look again, where the conversation is there and expires.
local is_here = is_there()
if touched and not is_here then forget() end
if is_here and forget(ARGV[4]) then
  redis.call('HSET', conversation, 'touched', now, 'history', ARGV[4])
  if known[3] then redis.call('HSET', conversation, 'model', known[3]) end
  redis.call('HSET', conversation, 'created', known[5] or now, 'metadata', known[6] or '{}')
  if seconds then redis.call('HSET', conversation, 'seconds', seconds) end
end
return {redis.call('LRANGE', gone, 0, -1), is_here and due()}
