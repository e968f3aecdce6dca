#!lua flags=no-writes
return is_there() and snapshot()
