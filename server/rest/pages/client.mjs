//: start
import { Parley } from "@parley/client"; // npm install PATH_OF_A_CLONE/clients/javascript

const url = "http://localhost:5000";
const register = async (username) => {
  const headers = { "Content-Type": "application/json" };
  return (await fetch(`${url}/api/users`, { method: "POST", headers, body: JSON.stringify({ username }) })).json();
};
const run = Date.now(); // each run has users of its own: a username is taken once
const alice = await register(`alice-${run}-client`);
const bob = await register(`bob-${run}-client`);
const chat = await Parley.connect({ url, token: () => alice.accessToken }); // it comes back by itself, for ever
//: ReceiveMessage
chat.on("message", ({ conversation, message }) => console.log(conversation.name, message.content));
//: MessageChanged
chat.on("change", ({ message }) => console.log(message.deletedAt ? "deleted" : "edited", message.content));
//: ConversationChanged
chat.on("conversation", ({ conversation }) => console.log(conversation.name, conversation.memberCount));
//: ThreadChanged
chat.on("thread", ({ thread }) => console.log(thread.threadId, thread.isFollowing, thread.unreadCount));
//: BlocksChanged
chat.on("blocks", ({ userIds }) => console.log("blocked:", userIds));
//: ConversationRemoved
chat.on("removed", ({ conversation, reason }) => console.log("gone:", conversation.id, reason));
//: MessageStatusUpdated
chat.on("receipt", ({ userId, status, seq }) => console.log(userId, status, "up to", seq));
//: UserStatusChanged
chat.on("presence", ({ userId, status }) => console.log(userId, "is", status));
//: UserStartedTyping UserStoppedTyping
chat.on("typing", ({ userId, isTyping }) => console.log(userId, isTyping ? "is typing" : "has stopped"));
//: Resync
chat.on("reset", ({ conversation }) => console.log("read anew:", conversation.messages.length)); // it has been done
//: Error
chat.on("error", ({ error }) => console.error(error.code, error.message));
//: Sync
// The client calls it by itself, after each connection. Then the state is `live`: what was missed has come.
chat.on("state", ({ state }) => console.log(state));
//: conversationsCreate
const group = await chat.createGroup({ name: "Lunch", memberIds: [bob.id] });
//: SendMessage messagesCreate
const message = group.send("Noon?"); // shown at once, sent through whatever happens
const sent = await message.whenSent();
//: EditMessage messagesEdit
await sent.edit("Half past?");
//: React reactionsReact
await sent.react("👍"); // seen as `change`: message.reactions
//: Pin pinsPin
await sent.pin(); // for all: message.pinnedAt
//: pinsListPinned
const pinned = await group.pins();
//: Unpin pinsUnpin
await sent.unpin();
//: Unreact reactionsUnreact
await sent.unreact("👍");
//: threadsListReplies
const reply = await group.send("At one", { threadId: sent.id }).whenSent();
console.log(group.replies(sent.id).length, (await group.readReplies(sent.id)).length);
//: FollowThread threadsFollow
await group.followThread(sent.id);
//: MarkThreadRead threadsMarkRead
await group.markThreadRead(sent.id, { seq: reply.seq });
//: UnfollowThread threadsUnfollow
await group.unfollowThread(sent.id);
//: threadsListMine
for (const { root, unreadCount } of await chat.threads()) console.log(root.content, unreadCount);
//: MarkRead MarkMessageAsRead messagesSetStatus
group.markRead(); // what arrives is marked as delivered by itself
//: StartTyping
group.startTyping(); // at each key
//: StopTyping
group.stopTyping();
//: StreamHistory messagesListPage
while (!group.isComplete) await group.loadOlder();
console.log(group.messages.map(({ content }) => content));
//: messagesListReceipts
for (const { userId, status } of (await group.receipts(sent.id)).items) console.log(userId, status);
//: UpdateStatus usersUpdateStatus
await chat.setStatus("Busy", { text: "in a meeting" });
//: GetPresence
const [presence] = await chat.presence([bob.id]); // from now on `presence` events keep it current
//: usersMe
const me = await chat.me();
//: usersUpdate
await chat.updateMe({ displayName: "Alice L." });
//: usersSearch
const found = await chat.searchUsers("bob");
//: SearchMessages searchMessages
const { items } = await chat.searchMessages("half past");
for (const { message, highlights } of items) console.log(message.content, highlights);
//: usersGet
const user = await chat.user(bob.id);
//: UpdatePrivacy usersUpdatePrivacy
await chat.setPrivacy({ readReceipts: false });
//: usersPrivacy
const { typing } = await chat.privacy();
//: Report reportsCreate
await chat.report({ category: "Spam", userId: bob.id, comment: "the same offer every day" });
//: BlockUser blocksBlock
await chat.block(bob.id);
//: blocksListBlocks
for (const { userId, createdAt } of await chat.blocks()) console.log(userId, createdAt);
//: UnblockUser blocksUnblock
await chat.unblock(bob.id);
//: usersUnread GetUnread
const { unreadCount, conversationCount } = await chat.unread(); // as the server counts it; `chat.unreadCount` is the client's
//: conversationsListMine conversationsGet
for (const { name, unreadCount, lastMessage } of chat.conversations) console.log(name, unreadCount, lastMessage?.content);
//: conversationsUpdate
await group.update({ name: "Late lunch", description: "Where we meet, and when", slowModeSeconds: 10 });
//: conversationsUpdateSettings UpdateConversationSettings
await group.updateSettings({ favourite: true, mutedUntil: "forever" }); // for oneself, on all one's devices
//: conversationsListMembers
for (const { userId, role } of await group.loadMembers()) console.log(userId, role);
//: conversationsAddMember
const carol = await register(`carol-${run}-client`);
await group.addMember(carol.id);
//: conversationsChangeRole
await group.setRole(bob.id, "Admin");
//: groupsCreateLink
const invitation = await group.createLink({ maxUses: 5 });
//: groupsListLinks
for (const { uses, maxUses, expiresAt } of (await group.links()).items) console.log(uses, maxUses, expiresAt);
//: groupsJoinByLink
await chat.join(invitation.token);
//: groupsRevokeLink
await group.revokeLink(invitation.id);
//: groupsSearch
await group.update({ isPublic: true });
const { items: groups } = await chat.searchGroups("lunch");
//: groupsJoin
await chat.joinGroup(groups.find(({ id }) => id === group.id).id);
//: conversationsRemoveMember
await group.removeMember(carol.id);
//: filesUpload
const list = new Blob(["bread, cheese"], { type: "text/plain" });
const file = await chat.files.upload(list, { name: "list.txt", onProgress: (done, size) => console.log(done, size) });
group.send("", { type: "File", fileId: file.id });
//: filesPresign filesComplete
const direct = await chat.files.upload(list, { name: "list.txt", presigned: true }); // not through the server
//: filesPresignedUrl filesDownload
const link = await chat.files.link(file);
console.log(await (await fetch(new URL(link.url, url))).text());
//: filesDelete
await chat.files.delete(direct);
//: DeleteMessage messagesDelete
await sent.delete();
//: conversationsDelete
await group.delete();
//: authListSessions
const sessions = await chat.request("GET", "/auth/sessions"); // any other route: with its token, and its patience
//: end
await chat.close();
