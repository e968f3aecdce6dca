#!/bin/sh
# How the server is, and what it offers. Needs curl.
#
#   sh examples/operators.sh
#   BASE_URL=https://chat.example.com sh examples/operators.sh
#
# CONVERSATION_KEY is the key of a protected server.
set -eu
url=${BASE_URL:-http://localhost:10000}
key=${CONVERSATION_KEY:+Authorization: Bearer $CONVERSATION_KEY}
call() { curl --silent --show-error --fail-with-body ${key:+-H "$key"} "$@"; echo; }

echo "Is it alive, is it ready, how is it?"
call "$url/healthz"
call "$url/readyz"
call "$url/health"

echo "Where are its documents? (In a browser: $url/docs and $url/redoc.)"
call "$url/"
