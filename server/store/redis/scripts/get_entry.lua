#!lua flags=no-writes
-- Returns false if the conversation is not listed, otherwise also the status of its newest run and whether it expired.
if not listed or listed == '' then return false end
local newest = redis.call('LINDEX', runs, -1)
return {read_conversation(), newest and read_status(newest), has_expired() and 1 or 0}
