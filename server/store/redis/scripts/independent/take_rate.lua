#!lua
-- The hits of a rate limit by their times; those until `expired` count no more. A repeated call has the same `id` and
-- counts once. Returns whether it counts, how many do, and the time of the next one to leave.
local hits, id, now, expired, limit, seconds = KEYS[1], ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]
redis.call('ZREMRANGEBYSCORE', hits, '-inf', expired)
local count = redis.call('ZCARD', hits)
local is_taken = redis.call('ZSCORE', hits, id) and 1 or 0
if is_taken == 0 and count < limit then
  redis.call('ZADD', hits, now, id)
  redis.call('EXPIRE', hits, seconds)
  is_taken, count = 1, count + 1
end
local first = math.max(0, count - limit)
return {is_taken, count, redis.call('ZRANGE', hits, first, first, 'WITHSCORES')[2]}
