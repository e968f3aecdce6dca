#!lua
-- The messages follow the named arguments. A repeated call finds the first of them among the recent ones.
local recent, excerpt, first = tonumber(ARGV[4]), ARGV[5], 6
if not exists() then return 'missing' end
if is_importing() then return 'importing' end
if has_added(recent, first, #ARGV) then return 'repeated' end
if #end_abandoned_runs() > 0 then return 'busy' end
for n = first, #ARGV do redis.call('RPUSH', messages, ARGV[n]) end
set_excerpt(excerpt)
touch()
return 'added'
