#!lua flags=no-writes
return redis.call('HGETALL', KEYS[1])
