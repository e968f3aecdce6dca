#!lua flags=allow-oom
-- Entries of `outbox` that are done follow the common arguments.
for n = 4, #ARGV do redis.call('LREM', outbox, 1, ARGV[n]) end
