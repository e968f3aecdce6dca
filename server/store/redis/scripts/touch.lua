#!lua
-- A conversation without a time limit stays as it is.
if not exists() then return false end
if not seconds then return 'kept' end
touch()
return 'touched'
