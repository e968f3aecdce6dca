#!/bin/sh
# Sessions: conversations that the server names, and forgets when nobody uses them for a day. Needs curl.
#
#   sh examples/sessions.sh
#   BASE_URL=https://chat.example.com sh examples/sessions.sh
#
# CONVERSATION_KEY is the key of a protected server.
set -eu
url=${BASE_URL:-http://localhost:10000}
key=${CONVERSATION_KEY:+Authorization: Bearer $CONVERSATION_KEY}
call() { curl --silent --show-error --fail-with-body ${key:+-H "$key"} --no-buffer -H 'Content-Type: application/json' "$@"; echo; }

echo "A session:"
made=$(call "$url/api/sessions" -d '{"metadata": {"user": "ada"}}')
echo "$made"
session_id=$(echo "$made" | sed 's/.*"session_id":"\([^"]*\)".*/\1/')

echo "A question, and one whose reply is read while it is written:"
call "$url/api/chat" -d '{"session_id": "'"$session_id"'", "message": "My cat is called Grace."}'
call "$url/api/chat/stream" -d '{"session_id": "'"$session_id"'", "message": "What is my cat called?"}'

echo "The newest two messages, and the session as it is now:"
call "$url/api/sessions/$session_id/messages?limit=2"
call "$url/api/sessions/$session_id"

echo "Its end:"
call "$url/api/sessions/$session_id" -X DELETE
