#!lua flags=no-writes
local status, most = ARGV[4], tonumber(ARGV[5])
local found = {}
if not is_there() then return found end
local place = -1
while #found < most do
  local id = redis.call('LINDEX', runs, place)
  if not id then break end
  if status == '' or status_of(id) == status then table.insert(found, record(id)) end
  place = place - 1
end
return found
