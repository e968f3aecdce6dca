#!/bin/sh
# Chat: a question with all that belongs to it, and streams that are started, read, resumed and stopped. Needs curl.
#
#   sh examples/chat.sh
#   BASE_URL=https://chat.example.com sh examples/chat.sh
#
# CONVERSATION_KEY is the key of a protected server.
set -eu
url=${BASE_URL:-http://localhost:10000}
key=${CONVERSATION_KEY:+Authorization: Bearer $CONVERSATION_KEY}
call() { curl --silent --show-error --fail-with-body ${key:+-H "$key"} --no-buffer -H 'Content-Type: application/json' "$@"; echo; }

echo "A question that brings its history along:"
call "$url/chat" -d '{
    "message": "What is my cat called?",
    "conversation_history": [
        {"role": "user", "content": "My cat is called Grace."},
        {"role": "assistant", "content": "A fine name."}
    ],
    "system_prompt": "Answer in one sentence.",
    "max_tokens": 1000
}'

echo "A stream, which is written whether or not anybody reads it:"
started=$(call "$url/chat/stream" -d '{"message": "Tell me a story."}')
echo "$started"
stream_id=$(echo "$started" | sed 's/.*"stream_id":"\([^"]*\)".*/\1/')

echo "Read from its beginning:"
call "$url/chat/stream/$stream_id"

echo "Read again, but for the four characters that are known already:"
call "$url/chat/stream/$stream_id" -H 'Last-Event-ID: 4'

echo "Stopped, which changes nothing any more, since it has ended:"
call "$url/chat/stream/$stream_id" -X DELETE
