#!lua flags=allow-oom
-- Gives `gone`, and when to look again, where the conversation is there and expires.
local is_here = is_there()
if touched and not is_here then forget() end
return {redis.call('LRANGE', gone, 0, -1), is_here and due()}
