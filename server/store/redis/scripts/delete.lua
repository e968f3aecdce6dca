#!lua flags=allow-oom
return forget()
