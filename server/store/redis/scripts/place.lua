#!lua flags=no-writes
return is_there() and place_of(ARGV[4])
