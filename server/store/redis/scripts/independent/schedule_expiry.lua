#!lua flags=allow-oom
-- Schedule a tag for the next sweep after `due`, if `condition` of ZADD is met. Unlike a plain ZADD, this also works if
-- the memory is full, since deleting expired data is how Redis gets room.
local tag, condition, due = ARGV[1], ARGV[2], ARGV[3]
redis.call('ZADD', KEYS[1], condition, due, tag)
