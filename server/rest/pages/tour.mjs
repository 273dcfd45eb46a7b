//: start
import { HubConnectionBuilder } from "@microsoft/signalr"; // npm install @microsoft/signalr

const url = "http://localhost:5000";
const post = async (path, body, token) => {
  const headers = { "Content-Type": "application/json", ...(token && { Authorization: `Bearer ${token}` }) };
  return (await fetch(url + path, { method: "POST", headers, body: JSON.stringify(body) })).json();
};
const run = Date.now(); // each run has users of its own: a username is taken once
const alice = await post("/api/users", { username: `alice-${run}-js` });
const bob = await post("/api/users", { username: `bob-${run}-js` });
const group = await post("/api/conversations", { type: "Group", name: "Lunch", memberIds: [bob.id] }, alice.accessToken);
const connection = new HubConnectionBuilder()
  .withUrl(`${url}/hubs/chat?sync=manual`, { accessTokenFactory: () => alice.accessToken })
  .withAutomaticReconnect()
  .build();
//: ReceiveMessage
const cursors = {}; // by conversation: where to go on, see Sync
connection.on("ReceiveMessage", (message) => {
  console.log(message.seq, message.content);
  cursors[message.conversationId] = { seq: message.changedSeq, messageId: message.id };
});
//: MessageChanged
connection.on("MessageChanged", (message) => {
  console.log(message.deletedAt ? "deleted" : "edited", message.id);
  const { changedAt } = message;
  cursors[message.conversationId] = { seq: message.changedSeq, messageId: message.id, changedAt };
});
//: ConversationChanged
connection.on("ConversationChanged", (conversation) => console.log(conversation.name, conversation.memberCount));
//: ThreadChanged
connection.on("ThreadChanged", ({ threadId, isFollowing, unreadCount }) => console.log(threadId, isFollowing, unreadCount));
//: BlocksChanged
connection.on("BlocksChanged", ({ version }) => console.log("read GET /api/users/me/blocks, now of version", version));
//: ConversationRemoved
connection.on("ConversationRemoved", (conversationId, reason) => console.log("gone:", reason));
//: MessageStatusUpdated
connection.on("MessageStatusUpdated", ({ userId, status, seq }) => console.log(userId, status, "up to", seq));
//: UserStatusChanged
connection.on("UserStatusChanged", ({ userId, status }) => console.log(userId, "is", status));
//: UserStartedTyping
connection.on("UserStartedTyping", ({ userId }) => console.log(userId, "is typing"));
//: UserStoppedTyping
connection.on("UserStoppedTyping", ({ userId }) => console.log(userId, "has stopped"));
//: Resync
connection.on("Resync", ({ conversationId, lastSeq, messageId }) => {
  cursors[conversationId] = { seq: lastSeq, messageId }; // and read it anew: GET /api/messages
});
//: Error
connection.on("Error", (error) => console.error(error.split("\n")[0]));
//: Sync
const sync = async () => {
  let answer = await connection.invoke("Sync", cursors, { others: "replay" });
  while (answer.next) answer = await connection.invoke("Sync", {}, { others: "replay", after: answer.next });
};
connection.onreconnected(sync);
await connection.start().then(sync);
//: SendMessage
const sent = await connection.invoke("SendMessage", {
  conversationId: group.id,
  content: "Noon?",
  clientMessageId: crypto.randomUUID(), // repeated with it, it is sent once
});
//: EditMessage
await connection.invoke("EditMessage", sent.id, "Half past?");
//: React
const { reactions } = await connection.invoke("React", sent.id, "👍"); // [{ emoji, count, userIds }]
//: Unreact
await connection.invoke("Unreact", sent.id, reactions[0].emoji);
//: Pin
const { pinnedAt } = await connection.invoke("Pin", sent.id);
//: Unpin
await connection.invoke("Unpin", sent.id);
//: FollowThread
await connection.invoke("FollowThread", sent.id);
const reply = await connection.invoke("SendMessage", { conversationId: group.id, content: "At one", threadId: sent.id });
//: MarkThreadRead
const { unreadCount: unreadReplies } = await connection.invoke("MarkThreadRead", sent.id, reply.seq);
//: UnfollowThread
await connection.invoke("UnfollowThread", sent.id);
//: SearchMessages
const found = await connection.invoke("SearchMessages", { query: "half past", limit: 20 });
for (const { message, highlights } of found.items) {
  for (const { field, start, length } of highlights) {
    if (field === "content") console.log(message.content.slice(start, start + length)); // UTF-16, as JavaScript counts
  }
}
//: MarkRead
await connection.invoke("MarkRead", group.id, sent.seq);
//: MarkDelivered
await connection.invoke("MarkDelivered", group.id, sent.seq);
//: MarkMessageAsRead
await connection.invoke("MarkMessageAsRead", sent.id);
//: MarkMessageAsDelivered
await connection.invoke("MarkMessageAsDelivered", sent.id);
//: StartTyping
await connection.invoke("StartTyping", group.id);
//: StopTyping
await connection.invoke("StopTyping", group.id);
//: StreamHistory
await new Promise((complete, error) =>
  connection.stream("StreamHistory", group.id).subscribe({ next: (message) => console.log(message.content), complete, error }),
);
//: DeleteMessage
await connection.invoke("DeleteMessage", sent.id).catch((error) => {
  const [line, detail = "{}"] = error.message.split("\n"); // "code: sentence", and what programs need
  console.error(line, JSON.parse(detail).retryAfterMs);
});
//: JoinConversation
const joined = await connection.invoke("JoinConversation", group.id, cursors[group.id]);
//: LeaveConversation
await connection.invoke("LeaveConversation", group.id);
//: UpdateConversationSettings
await connection.invoke("UpdateConversationSettings", group.id, { archived: false, favourite: true });
//: UpdateStatus
await connection.invoke("UpdateStatus", "Busy", "in a meeting");
//: GetPresence
const [status] = await connection.invoke("GetPresence", [bob.id]);
//: UpdatePrivacy
const { lastSeen } = await connection.invoke("UpdatePrivacy", { typing: false });
//: Report
const { state } = await connection.invoke("Report", { category: "Spam", userId: bob.id });
//: BlockUser
await connection.invoke("BlockUser", bob.id);
//: UnblockUser
await connection.invoke("UnblockUser", bob.id);
//: GetUnread
const { unreadCount, capped } = await connection.invoke("GetUnread");
//: Ping
await connection.invoke("Ping");
//: RefreshToken
await connection.invoke("RefreshToken", alice.accessToken);
//: end
await connection.stop();
