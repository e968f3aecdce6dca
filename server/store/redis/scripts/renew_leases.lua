#!lua flags=allow-oom
-- The ids of runs follow the common arguments. Returns those that have ended or are missing.
local ended = {}
for n = 4, #ARGV do
  if is_open(read_status(ARGV[n])) then
    redis.call('HSET', run_key(ARGV[n]), 'lease', lease)
  else
    table.insert(ended, ARGV[n])
  end
end
return ended
