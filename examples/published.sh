#!/bin/sh
# The six operations of openapi.json: a conversation for each client_name. Needs curl.
#
#   sh examples/published.sh
#   BASE_URL=https://chat.example.com sh examples/published.sh
#
# CONVERSATION_KEY is the key of a protected server, for the client_name `example`.
set -eu
url=${BASE_URL:-http://localhost:10000}
key=${CONVERSATION_KEY:+Authorization: Bearer $CONVERSATION_KEY}
call() { curl --silent --show-error --fail-with-body ${key:+-H "$key"} --no-buffer -H 'Content-Type: application/json' "$@"; echo; }

echo "The models that may be chosen, and the one that answers this client:"
call "$url/models"
call "$url/model?client_name=example"

echo "Two questions, the second with the first in mind:"
call "$url/query" -d '{"client_name": "example", "input": "My cat is called Grace."}'
call "$url/query" -d '{"client_name": "example", "input": "고양이 이름이 뭐였지?"}'

echo "A third, whose reply is read while it is written:"
call "$url/query" -H 'Accept: text/event-stream' -d '{"client_name": "example", "input": "Thank you."}'

echo "All that was said, until it is cleared:"
call "$url/history?client_name=example"
call "$url/history?client_name=example" -X DELETE
