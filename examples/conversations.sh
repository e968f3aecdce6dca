#!/bin/sh
# Conversations: listed, searched, changed, replaced, counted, exported, imported and deleted. Needs curl.
#
#   sh examples/conversations.sh
#   BASE_URL=https://chat.example.com sh examples/conversations.sh
#
# CONVERSATION_KEY is the key of a protected server, for the client_name `example*`.
set -eu
url=${BASE_URL:-http://localhost:10000}
key=${CONVERSATION_KEY:+Authorization: Bearer $CONVERSATION_KEY}
call() { curl --silent --show-error --fail-with-body ${key:+-H "$key"} --no-buffer -H 'Content-Type: application/json' "$@"; echo; }

echo "A question:"
call "$url/query" -d '{"client_name": "example/kitchen", "input": "How do I fry tofu?"}'

echo "A title and a system prompt, which hold for every later reply:"
call "$url/conversations/details" -X PATCH -d '{
    "client_name": "example/kitchen",
    "title": "Tofu",
    "system_prompt": "Answer in one sentence."
}'

echo "What has the word in its title, its name or a message:"
call "$url/conversations?q=TOFU&limit=1"

echo "The last question in other words, which replaces the turn when its reply is complete:"
edited=$(call "$url/conversations/edit" -d '{"client_name": "example/kitchen", "input": "How do I bake tofu?"}')
echo "$edited"
run_id=$(echo "$edited" | sed 's/.*"id":"\(run_[^"]*\)".*/\1/')

echo "Its reply, as it is written:"
call "$url/chat/stream/$run_id"

echo "The messages, with what they cost:"
call "$url/conversations/messages?client_name=example/kitchen"

echo "Tokens by day and model:"
call "$url/conversations/usage?client_name=example/kitchen"

echo "A copy, from an export:"
call "$url/conversations/export?client_name=example/kitchen" |
    call "$url/conversations/import?client_name=example/copy&on_conflict=copy" --data-binary @-

echo "Deleted, both:"
call "$url/conversations/details?client_name=example/kitchen" -X DELETE
call "$url/conversations/details?client_name=example/copy" -X DELETE
