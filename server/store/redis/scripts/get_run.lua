#!lua flags=no-writes
return exists() and read_run(ARGV[4])
