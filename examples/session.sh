#!/usr/bin/env bash
# A conversation in curl and jq, as a script that runs alone would have it: ./session.sh http://localhost:5000
# What may have been done already is repeated with the same key, so that it is done once; what is new is read from where
# one was. (Edits and deletions do not come that way: for these, and to hear of everything at once, there is the hub.)
set -euo pipefail
URL=${1:-http://localhost:5000}
answer=$(mktemp)
call() { # METHOD PATH [JSON]: repeated while the server is away, or asks for it
  local status
  status=$(curl -sS --retry 10 --retry-all-errors --retry-max-time 120 -X "$1" "$URL$2" -o "$answer" -w '%{http_code}' \
    ${auth:+-H "$auth"} ${key:+-H "Idempotency-Key: $key"} ${3:+-H 'Content-Type: application/json' -d "$3"})
  cat "$answer"
  [[ $status = 2* ]]
}
new_key() { key=$(date +%s)-$RANDOM$RANDOM$RANDOM$RANDOM; }

# Two users. Registration is open on a development server; elsewhere people sign in with a provider.
name=curl-$RANDOM$RANDOM
new_key && bob=$(call POST /api/users "{\"username\": \"$name-bob\"}")
new_key && alice=$(call POST /api/users "{\"username\": \"$name\"}")
auth="Authorization: Bearer $(jq -r .accessToken <<< "$alice")" # good for 15 minutes; POST /auth/refresh gives the next

# The conversation of the two: there is one, however often it is asked for.
new_key && direct=$(call POST /api/conversations "$(jq '{type: "Direct", memberIds: [.id]}' <<< "$bob")" | jq -r .id)

# Send. The clientMessageId is the message's own key: the second request is answered with the message of the first.
key=
message=$(jq -n --arg to "$direct" --arg id "hello-$name" '{conversationId: $to, content: "Noon?", clientMessageId: $id}')
first=$(call POST /api/messages "$message" | jq -r .id)
again=$(call POST /api/messages "$message" | jq -r .id)
[ "$first" = "$again" ] && echo "sent once: $first"

# Read what is new, page by page, and keep how far one has come.
seq=0
while page=$(call GET "/api/messages?conversationId=$direct&after=$seq&limit=50") && [ "$(jq '.items | length' <<< "$page")" -gt 0 ]; do
  jq -r '.items[] | select(.type == "Text") | "\(.seq) \(.content)"' <<< "$page"
  seq=$(jq '.items[-1].seq' <<< "$page")
done
call PUT "/api/messages/$first/status" '{"status": "Read"}' # everything up to it
