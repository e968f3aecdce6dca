#!lua flags=allow-oom
-- Gives those of the runs, which follow the common arguments, that have ended or are gone.
local gone = {}
for place = 4, #ARGV do
  if is_open(status_of(ARGV[place])) then
    redis.call('HSET', run_key(ARGV[place]), 'lease', lease)
  else
    table.insert(gone, ARGV[place])
  end
end
return gone
