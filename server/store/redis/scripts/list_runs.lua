#!lua flags=no-writes
local status, most = ARGV[4], tonumber(ARGV[5])
local selection = {}
if not exists() then return selection end
local index = -1
while #selection < most do
  local id = redis.call('LINDEX', runs, index)
  if not id then break end
  if status == '' or read_status(id) == status then table.insert(selection, read_run(id)) end
  index = index - 1
end
return selection
