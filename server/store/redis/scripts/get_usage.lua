#!lua flags=no-writes
return {exists() and 1 or 0, redis.call('HGETALL', usage)}
