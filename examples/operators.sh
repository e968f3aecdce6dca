#!/bin/sh
# How the server is, and what it offers. Needs curl.
#
#   sh examples/operators.sh
#   BASE_URL=https://chat.example.com sh examples/operators.sh
set -eu
url=${BASE_URL:-http://localhost:10000}
call() { curl --silent --show-error --fail-with-body "$@"; echo; }

echo "Is it alive, is it ready, how is it?"
call "$url/healthz"
call "$url/readyz"
call "$url/health"

echo "Where are its documents? (In a browser: $url/docs and $url/redoc.)"
call "$url/"
