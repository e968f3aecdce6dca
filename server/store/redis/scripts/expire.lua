#!lua flags=allow-oom
-- Gives what was forgotten, and when to look again, where the conversation is there and expires.
if not is_there() then return {forget(), false} end
local due = seconds and math.max(tonumber(touched) + tonumber(seconds), tonumber(now))
return {{{}, {}}, due and string.format('%.17g', due)}
