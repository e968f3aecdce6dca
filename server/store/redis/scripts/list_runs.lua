#!lua flags=no-writes
-- `before` is empty, or the id of a run. Returns false if the conversation has no such run.
local status, most, before = ARGV[4], tonumber(ARGV[5]), ARGV[6]
local selection = {}
local count = exists() and redis.call('LLEN', runs) or 0
if before ~= '' then count = count > 0 and redis.call('LPOS', runs, before, 'RANK', -1) end
if not count then return false end
for index = count - 1, 0, -1 do
  if #selection >= most then break end
  local id = redis.call('LINDEX', runs, index)
  if status == '' or read_status(id) == status then table.insert(selection, read_run(id)) end
end
return selection
