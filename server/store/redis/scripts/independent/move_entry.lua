#!lua flags=allow-oom
-- ZADD, but it also works if the memory is full, since every reply is kept then.
redis.call('ZADD', KEYS[1], unpack(ARGV))
