#!lua flags=allow-oom
-- List a tag, as ZADD does with the condition ARGV[2]; also where the memory is full, since that is how it gets room.
redis.call('ZADD', KEYS[1], ARGV[2], ARGV[3], ARGV[1])
