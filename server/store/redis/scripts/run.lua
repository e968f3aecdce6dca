#!lua flags=no-writes
return is_there() and record(ARGV[4])
