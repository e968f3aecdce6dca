#!/bin/sh
# Threads and runs, as OpenAI's Assistants API had them. Needs curl; programs use OpenAI's own package instead, as
# assistants.py does.
#
#   sh examples/assistants.sh
#   BASE_URL=https://chat.example.com sh examples/assistants.sh
#
# CONVERSATION_KEY is the key of a protected server.
set -eu
url=${BASE_URL:-http://localhost:10000}/api/v1
key=${CONVERSATION_KEY:+Authorization: Bearer $CONVERSATION_KEY}
call() { curl --silent --show-error --fail-with-body ${key:+-H "$key"} --no-buffer -H 'Content-Type: application/json' "$@"; echo; }

echo "The simple door: a question, and the thread that was made for it:"
told=$(call "$url/chat" -d '{"message": "My cat is called Grace."}')
echo "$told"
thread_id=$(echo "$told" | sed 's/.*"thread_id":"\([^"]*\)".*/\1/')

echo "A question on the same thread, and a run that answers it, read while it is written:"
call "$url/threads/$thread_id/messages" -d '{"role": "user", "content": "What is my cat called?"}'
call "$url/threads/$thread_id/runs" -d '{"assistant_id": "asst_default", "stream": true}'

echo "All that was said, and its end:"
call "$url/threads/$thread_id/messages?order=asc"
call "$url/threads/$thread_id" -X DELETE
