#!lua flags=allow-oom
-- Gives `gone`, and never when to look again.
if touched then forget(ARGV[4]) end
return {redis.call('LRANGE', gone, 0, -1), false}
