#: start
URL=http://localhost:5000
json='Content-Type: application/json'
run=$RANDOM$RANDOM # each run has users of its own: a username is taken once
#: usersCreate
alice=$(curl -sSf "$URL/api/users" -H "$json" -d "{\"username\": \"alice-$run\"}")
TOKEN=$(jq -r .accessToken <<< "$alice")
auth="Authorization: Bearer $TOKEN"
#: conversationsCreate
bob=$(curl -sSf "$URL/api/users" -H "$json" -d "{\"username\": \"bob-$run\"}" | jq -r .id)
group=$(curl -sSf "$URL/api/conversations" -H "$auth" -H "$json" -H 'Idempotency-Key: lunch-1' \
  -d "{\"type\": \"Group\", \"name\": \"Lunch\", \"memberIds\": [\"$bob\"]}" | jq -r .id)
#: messagesCreate
message=$(curl -sSf "$URL/api/messages" -H "$auth" -H "$json" -d "{
  \"conversationId\": \"$group\", \"content\": \"Noon?\", \"clientMessageId\": \"lunch-1-noon\"}" | jq -r .id)
#: messagesListPage
curl -sSf "$URL/api/messages?conversationId=$group&limit=20" -H "$auth" | jq '.items[].content'
#: messagesGet
curl -sSf "$URL/api/messages/$message" -H "$auth"
#: messagesEdit
curl -sSf -X PUT "$URL/api/messages/$message" -H "$auth" -H "$json" -d '{"content": "Half past?"}'
#: searchMessages
curl -sSf "$URL/api/search/messages" -G -d limit=20 --data-urlencode 'q=half past' -H "$auth" |
  jq '.items[] | {content: .message.content, highlights}'
#: messagesSetStatus
seq=$(curl -sSf "$URL/api/messages/$message" -H "$auth" | jq .seq)
curl -sSf -X PUT "$URL/api/messages/$message/status" -H "$auth" -H "$json" -d '{"status": "Read"}'
#: messagesListReceipts
curl -sSf "$URL/api/messages/$message/receipts" -H "$auth"
#: reactionsReact
curl -sSf -X PUT "$URL/api/messages/$message/reactions/$(jq -rn '"👍" | @uri')" -H "$auth" | jq .reactions
#: pinsPin
curl -sSf -X PUT "$URL/api/messages/$message/pin" -H "$auth" | jq .pinnedAt
#: pinsListPinned
curl -sSf "$URL/api/conversations/$group/pins" -H "$auth" | jq '.items[].content'
#: pinsUnpin
curl -sSf -X DELETE "$URL/api/messages/$message/pin" -H "$auth"
#: reactionsListReactors
curl -sSf "$URL/api/messages/$message/reactions" -H "$auth" | jq '.items[] | {userId, emoji}'
#: reactionsUnreact
curl -sSf -X DELETE "$URL/api/messages/$message/reactions/$(jq -rn '"👍" | @uri')" -H "$auth"
#: threadsListReplies
curl -sSf "$URL/api/messages" -H "$auth" -H "$json" \
  -d "{\"conversationId\": \"$group\", \"content\": \"At one\", \"threadId\": \"$message\"}" | jq .threadId
curl -sSf "$URL/api/messages/$message/replies" -H "$auth" | jq '.items[].content'
#: threadsListMine
curl -sSf "$URL/api/threads?unread=false&limit=20" -H "$auth" | jq '.items[] | {content: .root.content, unreadCount}'
#: threadsGet
curl -sSf "$URL/api/threads/$message" -H "$auth" | jq .isFollowing
#: threadsMarkRead
curl -sSf -X PUT "$URL/api/threads/$message/read" -H "$auth" -H "$json" -d "{\"seq\": $seq}" | jq .readSeq
#: threadsUnfollow
curl -sSf -X DELETE "$URL/api/threads/$message/following" -H "$auth" | jq .isFollowing
#: threadsFollow
curl -sSf -X PUT "$URL/api/threads/$message/following" -H "$auth" | jq .isFollowing
#: mentionsListMine
curl -sSf "$URL/api/messages" -H "$auth" -H "$json" \
  -d "{\"conversationId\": \"$group\", \"content\": \"@bob?\", \"mentions\": [\"$bob\"]}"
curl -sSf "$URL/api/mentions?limit=20" -H "$auth" | jq '.items[].content'
#: messagesDelete
curl -sSf -X DELETE "$URL/api/messages/$message" -H "$auth"
#: usersMe
curl -sSf "$URL/api/users/me" -H "$auth"
#: usersUpdate
curl -sSf -X PUT "$URL/api/users/me" -H "$auth" -H "$json" -d '{"displayName": "Alice L."}'
#: usersUpdateStatus
curl -sSf -X PUT "$URL/api/users/status" -H "$auth" -H "$json" -d '{"status": "Away", "statusText": "Lunch"}'
#: usersSearch
curl -sSf "$URL/api/users?q=bo" -H "$auth" | jq '.items[].username'
#: usersGet
curl -sSf "$URL/api/users/$bob" -H "$auth"
#: usersUpdatePrivacy
curl -sSf -X PUT "$URL/api/users/me/privacy" -H "$auth" -H "$json" -d '{"readReceipts": false}'
#: usersPrivacy
curl -sSf "$URL/api/users/me/privacy" -H "$auth" | jq .typing
#: reportsCreate
curl -sSf "$URL/api/reports" -H "$auth" -H "$json" -d "{\"category\": \"Spam\", \"userId\": \"$bob\"}" | jq .state
#: reportsListOwn
curl -sSf "$URL/api/users/me/reports?limit=20" -H "$auth" | jq '.items[] | {category, state}'
#: blocksBlock
curl -sSf -X PUT "$URL/api/users/me/blocks/$bob" -H "$auth"
#: blocksListBlocks
curl -sSf "$URL/api/users/me/blocks?limit=20" -H "$auth" | jq '.items[].userId'
#: blocksUnblock
curl -sSf -X DELETE "$URL/api/users/me/blocks/$bob" -H "$auth"
#: usersUnread
curl -sSf "$URL/api/users/me/unread" -H "$auth" | jq .unreadCount
#: usersExportMine
curl -sSf "$URL/api/users/me/export" -H "$auth" -o export.json
#: conversationsListMine
curl -sSf "$URL/api/conversations" -H "$auth" | jq '.items[] | {name, unreadCount}'
#: conversationsGet
curl -sSf "$URL/api/conversations/$group" -H "$auth"
#: conversationsUpdate
curl -sSf -X PUT "$URL/api/conversations/$group" -H "$auth" -H "$json" -d '{"name": "Late lunch", "description": "Where we meet, and when"}'
#: conversationsUpdateSettings
curl -sSf -X PUT "$URL/api/conversations/$group/settings" -H "$auth" -H "$json" \
  -d '{"favourite": true, "notifications": {"mutedUntil": "2999-01-01T00:00:00Z"}}'
#: conversationsListMembers
curl -sSf "$URL/api/conversations/$group/members" -H "$auth" | jq '.items[].role'
#: conversationsAddMember
carol=$(curl -sSf "$URL/api/users" -H "$json" -d "{\"username\": \"carol-$run\"}" | jq -r .id)
curl -sSf "$URL/api/conversations/$group/members" -H "$auth" -H "$json" -d "{\"userId\": \"$carol\"}"
#: conversationsChangeRole
curl -sSf -X PUT "$URL/api/conversations/$group/members/$bob/role" -H "$auth" -H "$json" -d '{"role": "Admin"}'
#: groupsCreateLink
link=$(curl -sSf "$URL/api/conversations/$group/links" -H "$auth" -H "$json" -d '{"maxUses": 5}')
#: groupsListLinks
curl -sSf "$URL/api/conversations/$group/links" -H "$auth" | jq '.items[] | {uses, maxUses, expiresAt}'
#: groupsJoinByLink
curl -sSf "$URL/api/join" -H "$auth" -H "$json" -d "{\"token\": $(jq .token <<< "$link")}" | jq .name
#: groupsSearch
curl -sSf -X PUT "$URL/api/conversations/$group" -H "$auth" -H "$json" -d '{"isPublic": true}' | jq .isPublic
curl -sSf "$URL/api/groups?q=lunch" -H "$auth" | jq '.items[] | {name, memberCount}'
#: groupsJoin
curl -sSf -X POST "$URL/api/conversations/$group/join" -H "$auth" | jq .name
#: groupsRevokeLink
curl -sSf -X DELETE "$URL/api/conversations/$group/links/$(jq -r .id <<< "$link")" -H "$auth"
#: conversationsRemoveMember
curl -sSf -X DELETE "$URL/api/conversations/$group/members/$carol" -H "$auth"
#: filesUpload
echo 'bread, cheese' > list.txt
file=$(curl -sSf "$URL/api/files/upload" -H "$auth" -F file=@list.txt)
key=$(jq -r .key <<< "$file")
curl -sSf "$URL/api/messages" -H "$auth" -H "$json" \
  -d "{\"conversationId\": \"$group\", \"content\": \"\", \"type\": \"File\", \"fileId\": $(jq .id <<< "$file")}"
#: filesPresign
upload=$(curl -sSf "$URL/api/files/presign" -H "$auth" -H "$json" \
  -d '{"name": "list.txt", "contentType": "text/plain", "size": 14}')
curl -sSf -X PUT "$(jq -r .uploadUrl <<< "$upload")" -H 'Content-Type: text/plain' -T list.txt
#: filesComplete
curl -sSf -X POST "$URL/api/files/$(jq -r .id <<< "$upload")/complete" -H "$auth"
#: filesPresignedUrl
curl -sSf "$URL/api/files/presigned-url?fileKey=$key" -H "$auth" | jq -r .url
#: filesDownload
curl -sSfL "$URL/api/files/$key" -H "$auth"
#: filesDelete
curl -sSf -X DELETE "$URL/api/files?fileUrl=$(jq -r .url <<< "$file" | jq -sRr '@uri')" -H "$auth"
#: conversationsDelete
curl -sSf -X DELETE "$URL/api/conversations/$group" -H "$auth"
#: moderationChangeRole
# What `parley token --admin --user NAME` prints; or grant the role: `parley admin grant administrator NAME`.
admin="Authorization: Bearer $(cat admin-token)"
curl -sSf -X PUT "$URL/api/users/$bob/role" -H "$admin" -H "$json" -d '{"role": "Moderator"}' | jq .role
curl -sSf -X PUT "$URL/api/users/$bob/role" -H "$admin" -H "$json" -d '{"role": "User"}' | jq .role
#: reportsListReports
report=$(curl -sSf "$URL/api/reports?state=open" -H "$admin" | jq -r '.items[0].id')
#: reportsResolve
curl -sSf -X PUT "$URL/api/reports/$report/resolution" -H "$admin" -H "$json" -d '{"note": "warned"}' | jq .state
#: membersMute
where=$(curl -sSf "$URL/api/conversations" -H "$admin" -H "$json" \
  -d "{\"type\": \"Group\", \"memberIds\": [\"$bob\"]}" | jq -r .id)
curl -sSf -X PUT "$URL/api/conversations/$where/members/$bob/mute" -H "$admin" -H "$json" -d '{"until": "2999-01-01T00:00:00Z"}'
#: membersUnmute
curl -sSf -X DELETE "$URL/api/conversations/$where/members/$bob/mute" -H "$admin"
#: membersBan
curl -sSf -X PUT "$URL/api/conversations/$where/bans/$bob" -H "$admin" -H "$json" -d '{"reason": "spam"}'
#: membersListBans
curl -sSf "$URL/api/conversations/$where/bans" -H "$admin" | jq '.items[] | {userId, until}'
#: membersLift
curl -sSf -X DELETE "$URL/api/conversations/$where/bans/$bob" -H "$admin"
#: membersRename
curl -sSf -X PUT "$URL/api/conversations/$where/name" -H "$admin" -H "$json" -d '{"name": "A calm group", "reason": "an insult"}'
#: moderationBan
curl -sSf -X PUT "$URL/api/users/$bob/ban" -H "$admin" -H "$json" -d '{"until": "2999-01-01T00:00:00Z", "reason": "spam"}'
#: moderationGetStanding
curl -sSf "$URL/api/users/$bob/standing" -H "$admin" | jq .bannedUntil
#: moderationUnban
curl -sSf -X DELETE "$URL/api/users/$bob/ban?reason=mistake" -H "$admin" | jq .bannedUntil
#: moderationEndSessions
curl -sSf -X DELETE "$URL/api/users/$bob/sessions" -H "$admin" | jq .role
#: moderationRename
curl -sSf -X PUT "$URL/api/users/$carol/name" -H "$admin" -H "$json" -d '{"displayName": "Carol"}' | jq .displayName
#: auditListAudit
curl -sSf "$URL/api/audit?userId=$bob&act=userBanned" -H "$admin" | jq '.items[] | {at, act, reason}'
#: webhooksCreate
hook=$(curl -sSf "$URL/api/webhooks" -H "$admin" -H "$json" \
  -d '{"url": "https://app.example/parley", "events": ["message.created"]}' | jq -r .id)
#: webhooksListAll
curl -sSf "$URL/api/webhooks" -H "$admin" | jq '.items[] | {id, url, state, failingSince}'
#: webhooksGet
curl -sSf "$URL/api/webhooks/$hook" -H "$admin" | jq .lastFailure
#: webhooksUpdate
curl -sSf -X PUT "$URL/api/webhooks/$hook" -H "$admin" -H "$json" -d '{"state": "Paused"}' | jq .state
#: webhooksRotateSecret
curl -sSf -X POST "$URL/api/webhooks/$hook/secret" -H "$admin" | jq .oldSecretUntil
#: webhooksDeadLetters
curl -sSf "$URL/api/webhooks/$hook/dead-letters" -H "$admin" | jq '.items[] | {id, type, reason}'
#: webhooksReplay
curl -sSf "$URL/api/webhooks/$hook/replay" -H "$admin" -H "$json" -d '{"ids": []}' | jq .count
#: webhooksDelete
curl -sSf -X DELETE "$URL/api/webhooks/$hook" -H "$admin"
#: provisioningPut
# What `parley apikey create --name shop --scopes users:read,users:write,tokens:mint` prints.
shop="Authorization: Bearer $(cat api-key)"
grace=$(curl -sSf -X PUT "$URL/api/users/by-external-id/customer-17" -H "$shop" -H "$json" -d '{"displayName": "Grace"}' | jq -r .id)
#: provisioningGet
curl -sSf "$URL/api/users/by-external-id/customer-17" -H "$shop" | jq '{id, username, externalId}'
#: provisioningPutAll
curl -sSf "$URL/api/users/batch" -H "$shop" -H "$json" \
  -d '{"users": [{"externalId": "customer-17", "email": "grace@example.org"}, {"externalId": "customer-18", "displayName": "Heidi"}]}' |
  jq '.items[] | {id, externalId}'
#: provisioningMint
minted=$(curl -sSf "$URL/api/users/$grace/tokens" -H "$shop" -H "$json" -d '{"expiresInSeconds": 900}' | jq -r .accessToken)
curl -sSf "$URL/api/users/me" -H "Authorization: Bearer $minted" | jq .displayName
#: provisioningEndAll
curl -sSf -X DELETE "$URL/api/users/$grace/tokens" -H "$shop"
#: authListSessions
session=$(curl -sSf "$URL/auth/sessions" -H "$auth" | jq -r '.items[0].id')
#: authRefresh
refreshed=$(curl -sSf "$URL/auth/refresh" -H "$json" -d "{\"refreshToken\": $(jq .refreshToken <<< "$alice")}")
auth="Authorization: Bearer $(jq -r .accessToken <<< "$refreshed")"
#: hubNegotiate
curl -sSf -X POST "$URL/hubs/chat/negotiate?negotiateVersion=1" -H "$auth" | jq .availableTransports
#: authRevoke
dave=$(curl -sSf "$URL/api/users" -H "$json" -d "{\"username\": \"dave-$run\"}" | jq -r .accessToken)
one=$(curl -sSf "$URL/auth/sessions" -H "Authorization: Bearer $dave" | jq -r '.items[0].id')
curl -sSf -X DELETE "$URL/auth/sessions/$one" -H "Authorization: Bearer $dave"
#: authLogout
erin=$(curl -sSf "$URL/api/users" -H "$json" -d "{\"username\": \"erin-$run\"}" | jq -r .accessToken)
curl -sSf -X POST "$URL/auth/logout" -H "Authorization: Bearer $erin"
#: usersDelete
curl -sSf -X DELETE "$URL/api/users/$(jq -r .id <<< "$alice")" -H "$auth"
#: healthHealth
curl -s "$URL/health" | jq .status
#: healthLive
curl -sSf "$URL/health/live"
#: healthReady
curl -sSf "$URL/health/ready"
#: authLogin
verifier=$(openssl rand -hex 32)
challenge=$(printf %s "$verifier" | openssl dgst -sha256 -binary | basenc --base64url | tr -d =)
provider=$(curl -sSf -c cookies.txt "$URL/auth/login/corp?returnUrl=$URL/&codeChallenge=$challenge" \
  -H 'Accept: application/json' | jq -r .authorizationUrl)
#: authCallback
# A browser opens that page. When the person has signed in, the provider sends it back, with a state and a code.
callback=$(curl -s -o /dev/null -w '%{redirect_url}' "$provider")
page=$(curl -sSf -b cookies.txt -o /dev/null -w '%{redirect_url}' "$callback")
#: authExchange
code=${page#*code=}
curl -sSf "$URL/auth/exchange" -H "$json" -d "{\"code\": \"$code\", \"codeVerifier\": \"$verifier\"}" | jq -r .accessToken
