#!lua flags=no-writes
-- Without those that are abandoned or have expired.
return #list_live_runs()
