#!lua flags=no-writes
return exists() and find_index(ARGV[4])
