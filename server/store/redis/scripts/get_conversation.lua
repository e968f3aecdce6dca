#!lua flags=no-writes
return exists() and read_conversation()
