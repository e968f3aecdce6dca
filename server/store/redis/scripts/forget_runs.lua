#!lua flags=allow-oom
-- Entries of `deleted_runs` follow the common arguments. The keys `run:ID` of their runs have been deleted.
for n = 4, #ARGV do redis.call('LREM', deleted_runs, 1, ARGV[n]) end
