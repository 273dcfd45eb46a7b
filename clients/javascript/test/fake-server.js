/**
 * A model of a Parley server in this process, as docs/hub.md describes it, behind a network that can be hostile.
 * Owns the truth to which clients are compared, and all faults: they come from one seeded generator.
 */

const END = "\x1e";

/** A small generator of random numbers: the same seed, the same faults (mulberry32). */
export function random(seed) {
  let state = seed >>> 0;
  const next = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
  return {
    next,
    chance: (p) => next() < p,
    below: (n) => Math.floor(next() * n),
    pick: (list) => list[Math.floor(next() * list.length)],
  };
}

/** What may go wrong, as chances; a calm network has none of it. */
export const CALM = {
  refuse: 0, // a connection or request is refused
  lose: 0, // the answer of a request is lost after it was done
  cut: 0, // a connection is cut, with each frame
  dead: 0, // a connection that is cut does not say so
  twice: 0, // an event comes twice
  repeat: 0, // a frame of a client is worked on twice
  late: 0, // frames of a connection that is over still come
  delay: 0, // ms, at most, of each frame
};

export const ROUGH = { refuse: 0.1, lose: 0.05, cut: 0.02, dead: 0.3, twice: 0.1, repeat: 0.05, late: 0.5, delay: 4 };

const BEHIND = 30; // changes that are replayed of one conversation
const LISTED = 3; // conversations in one answer to Sync

let lastId = 0;
const newId = () => `00000000-0000-7000-8000-${String(++lastId).padStart(12, "0")}`;
const now = () => new Date(Date.now()).toISOString();
const lower = (text) => String(text).toLowerCase();

export function tokenOf(userId, seconds = 3600) {
  const at = Math.floor(Date.now() / 1000);
  const claims = btoa(JSON.stringify({ sub: userId, iat: at, exp: at + seconds })).replaceAll("+", "-").replaceAll("/", "_");
  return `e30.${claims}.x`;
}

export class Failure extends Error {
  constructor(code, status, sentence = "It is so.") {
    super(`${code}: ${sentence}`);
    Object.assign(this, { code, status, sentence });
  }
}

const NOTHING_SET = { archived: false, favourite: false, notifications: { mutedUntil: null }, version: 0 };

export class FakeServer {
  constructor(dice = random(1)) {
    this.dice = dice;
    this.network = { ...CALM };
    this.conversations = new Map();
    this.connections = new Set();
    this.negotiated = new Map();
    this.sends = new Map();
    this.versions = new Map(); // all states of each message, by its id
    this.calls = []; // [user, method, args]
    this.requests = []; // [method, path]
    this.refused = new Set(); // access tokens
    this.timers = new Set();
    this.settings = new Map(); // what a member has set, by conversation and user
    this.settingsVersion = 0;
    this.threads = new Map(); // what they are to a user, by user and root
  }

  // -- the truth ---------------------------------------------------------------------------------

  create(owner, others, { type = "Group", name = null } = {}) {
    const found = {
      id: newId(), type, name, createdBy: owner, createdAt: now(), lastSeq: 0, messages: [], members: new Map(), shrunkAt: null,
    };
    for (const userId of [owner, ...others])
      found.members.set(userId, { userId, role: userId === owner ? "Owner" : "Member", joinedAt: now(), deliveredSeq: 1, readSeq: 1 });
    this.conversations.set(found.id, found);
    this.system(found, owner, { event: "conversationCreated", by: owner }, [...found.members.keys()]);
    return found;
  }

  /** What follows this change is sent to those whom it adds, and the details. */
  system(conversation, by, content, added = []) {
    const wire = this.commit(conversation, { senderId: by, type: "System", content: JSON.stringify(content) });
    for (const userId of added) this.attachAll(userId, conversation);
    for (const one of this.attached(conversation))
      one.event("ConversationChanged", this.view(conversation, one.user), conversation.id);
    return wire;
  }

  addMember(conversation, by, userId) {
    if (conversation.members.has(userId)) return;
    const member = { userId, role: "Member", joinedAt: now(), deliveredSeq: conversation.lastSeq + 1, readSeq: conversation.lastSeq + 1 };
    conversation.members.set(userId, member);
    this.system(conversation, by, { event: "memberAdded", by, userId, role: "Member" }, [userId]);
  }

  removeMember(conversation, by, userId) {
    if (!conversation.members.delete(userId)) return;
    for (const one of this.connections) {
      if (one.user !== userId || !one.attached.delete(conversation.id)) continue;
      one.event("ConversationRemoved", [conversation.id, "removed"], null);
    }
    this.system(conversation, by, { event: "memberRemoved", by, userId });
  }

  commit(conversation, fields) {
    const seq = ++conversation.lastSeq;
    const wire = {
      id: newId(), conversationId: conversation.id, seq, changedSeq: seq, type: "Text", file: null, replyToId: null,
      clientMessageId: null, createdAt: now(), editedAt: null, deletedAt: null, changedAt: null, reactions: [], status: "Sent", mentions: [], mentionAll: false, ...fields,
    };
    conversation.messages.push(wire);
    this.versions.set(wire.id, [wire]);
    this.publish(conversation, wire, "ReceiveMessage");
    return wire;
  }

  change(conversation, wire, fields) {
    const changed = { ...wire, ...fields, changedAt: now(), changedSeq: ++conversation.lastSeq };
    conversation.messages[conversation.messages.indexOf(wire)] = changed;
    this.versions.set(wire.id, [...this.versions.get(wire.id).filter(({ changedSeq }) => changedSeq < changed.changedSeq), changed]);
    this.publish(conversation, changed, "MessageChanged");
    return changed;
  }

  send(user, { conversationId, content, clientMessageId = null, type = "Text", replyToId = null, mentions = [], mentionAll = false, threadId = null, alsoInConversation = false }) {
    const conversation = this.of(user, conversationId);
    if (typeof content !== "string" || !content.trim()) throw new Failure("invalid_content", 400);
    const key = `${user}/${clientMessageId}`;
    const before = clientMessageId && this.sends.get(key);
    const known = before && this.conversations.get(before.conversationId)?.messages.find(({ id }) => id === before.id);
    const wire = known ?? this.commit(conversation, { senderId: user, content, clientMessageId, type, replyToId, mentions, mentionAll, threadId, alsoInConversation });
    if (clientMessageId) this.sends.set(key, wire);
    if (!known) this.receipt(user, conversation, "Read", wire.seq); // who writes has read
    return { ...wire, after: wire.changedSeq - 1 };
  }

  edit(user, id, content, { mentions, mentionAll } = {}) {
    const [conversation, wire] = this.find(user, id);
    if (wire.senderId !== user) throw new Failure("forbidden", 403);
    if (wire.deletedAt) throw new Failure("gone", 410);
    const named = { mentions: mentions ?? wire.mentions, mentionAll: mentionAll ?? wire.mentionAll };
    const changed = this.change(conversation, wire, { content, editedAt: now(), ...named });
    return { ...changed, after: changed.changedSeq - 1 };
  }

  react(user, id, emoji, adds) {
    const [conversation, wire] = this.find(user, id);
    if (wire.deletedAt) throw new Failure("gone", 410);
    const others = wire.reactions.filter((one) => one.emoji !== emoji);
    const before = wire.reactions.find((one) => one.emoji === emoji)?.userIds ?? [];
    const userIds = adds ? [...new Set([...before, user])] : before.filter((one) => one !== user);
    if (userIds.length === before.length) return wire;
    const reactions = userIds.length ? [...others, { emoji, count: userIds.length, userIds }] : others;
    return this.change(conversation, wire, { reactions });
  }

  delete(user, id) {
    const [conversation, wire] = this.find(user, id);
    if (wire.deletedAt) throw new Failure("gone", 410);
    const changed = this.change(conversation, wire, { content: "", deletedAt: now(), mentions: [], mentionAll: false });
    return { ...changed, after: changed.changedSeq - 1 };
  }

  /** PostgreSQL comes back with less: changes above `head` have never been. Noticed with the next change. */
  goBack(conversation, head) {
    if (head >= conversation.lastSeq) return;
    for (const { id } of conversation.messages) this.versions.set(id, this.versions.get(id).filter(({ changedSeq }) => changedSeq <= head));
    conversation.messages = conversation.messages
      .filter(({ seq }) => seq <= head)
      .map(({ id }) => this.versions.get(id).at(-1));
    for (const [key, wire] of this.sends) if (wire.conversationId === conversation.id && wire.seq > head) this.sends.delete(key);
    for (const member of conversation.members.values()) {
      member.deliveredSeq = Math.min(member.deliveredSeq, head);
      member.readSeq = Math.min(member.readSeq, head);
    }
    conversation.lastSeq = head;
    conversation.shrunkAt = head;
  }

  of(user, id) {
    const found = this.conversations.get(lower(id));
    if (!found?.members.has(user)) throw new Failure("not_found", 404);
    return found;
  }

  find(user, id) {
    for (const conversation of this.conversations.values()) {
      const wire = conversation.members.has(user) && conversation.messages.find((one) => one.id === id);
      if (wire) return [conversation, wire];
    }
    throw new Failure("not_found", 404);
  }

  head(conversation) {
    const last = conversation.messages.reduce((most, one) => (one.changedSeq > (most?.changedSeq ?? 0) ? one : most), null);
    return { lastSeq: conversation.lastSeq, messageId: last?.changedSeq === conversation.lastSeq ? last.id : null };
  }

  unread(conversation, user) {
    const { readSeq } = conversation.members.get(user);
    return conversation.messages.filter((one) => one.seq > readSeq && one.senderId !== user && !one.deletedAt).length;
  }

  mentioned(conversation, user) {
    const { readSeq } = conversation.members.get(user);
    const isMentioned = ({ mentions, mentionAll }) => mentionAll || mentions.includes(user);
    return conversation.messages.filter((one) => one.seq > readSeq && one.senderId !== user && isMentioned(one)).length;
  }

  view(conversation, user) {
    return {
      id: conversation.id, type: conversation.type, name: conversation.name, createdBy: conversation.createdBy,
      createdAt: conversation.createdAt, lastSeq: conversation.lastSeq, lastMessage: conversation.messages.at(-1) ?? null,
      unreadCount: conversation.members.has(user) ? this.unread(conversation, user) : 0,
      mentionCount: conversation.members.has(user) ? this.mentioned(conversation, user) : 0,
      settings: this.settings.get(`${conversation.id} ${user}`) ?? NOTHING_SET,
      memberCount: conversation.members.size, members: [...conversation.members.values()].map((one) => ({ ...one })),
    };
  }

  set(conversation, user, { archived, favourite, notifications }) {
    const key = `${conversation.id} ${user}`;
    const before = this.settings.get(key) ?? NOTHING_SET;
    const after = {
      archived: archived ?? before.archived, favourite: favourite ?? before.favourite,
      notifications: notifications ?? before.notifications, version: ++this.settingsVersion,
    };
    this.settings.set(key, after);
    for (const one of this.connections) if (one.user === user) one.event("ConversationChanged", this.view(conversation, user), null);
    return after;
  }

  setThread(user, root, isFollowing, version = (this.threads.get(`${user} ${root.id}`)?.version ?? 0) + 1) {
    const conversation = this.conversations.get(root.conversationId);
    const lastReplySeq = Math.max(0, ...conversation.messages.filter(({ threadId }) => threadId === root.id).map(({ seq }) => seq));
    const state = { threadId: root.id, conversationId: conversation.id, isFollowing, readSeq: 0, unreadCount: 0, lastReplySeq, version };
    this.threads.set(`${user} ${root.id}`, state);
    for (const one of this.connections) if (one.user === user) one.event("ThreadChanged", state, null);
  }

  mine(user) {
    return [...this.conversations.values()].filter(({ members }) => members.has(user)).sort((a, b) => (a.id < b.id ? -1 : 1));
  }

  // -- fan-out -----------------------------------------------------------------------------------

  attached(conversation) {
    return [...this.connections].filter((one) => one.attached.has(conversation.id));
  }

  attachAll(user, conversation) {
    for (const one of this.connections) if (one.user === user && one.hasSynced) one.attached.add(conversation.id);
  }

  publish(conversation, wire, name) {
    const isShrunk = conversation.shrunkAt !== null;
    conversation.shrunkAt = null;
    for (const one of this.attached(conversation)) {
      if (isShrunk) one.event("Resync", { conversationId: conversation.id, ...this.head(conversation) }, conversation.id);
      else one.event(name, wire, conversation.id);
    }
  }

  receipt(user, conversation, status, seq) {
    const member = conversation.members.get(user);
    const to = Math.min(seq, conversation.lastSeq);
    if (to <= member.readSeq || (status === "Delivered" && to <= member.deliveredSeq)) return;
    member.deliveredSeq = Math.max(member.deliveredSeq, to);
    if (status === "Read") member.readSeq = to;
    const update = { conversationId: conversation.id, userId: user, status, seq: to, at: now() };
    for (const one of this.attached(conversation)) one.event("MessageStatusUpdated", update, conversation.id);
  }

  // -- hub methods -------------------------------------------------------------------------------

  invoke(connection, name, args) {
    const { user } = connection;
    this.calls.push([user, name, args]);
    switch (name) {
      case "SendMessage":
        return this.send(user, args[0]);
      case "Sync":
        return this.sync(connection, args[0], args[1] ?? {});
      case "MarkRead":
      case "MarkDelivered":
        this.receipt(user, this.of(user, args[0]), name === "MarkRead" ? "Read" : "Delivered", args[1]);
        return null;
      case "StartTyping":
      case "StopTyping": {
        const conversation = this.of(user, args[0]);
        for (const one of this.attached(conversation))
          if (one.user !== user)
            one.event(name === "StartTyping" ? "UserStartedTyping" : "UserStoppedTyping", { conversationId: conversation.id, userId: user }, conversation.id);
        return null;
      }
      case "GetPresence":
        return args[0].map((userId) => ({ userId, status: this.isOnline(userId) ? "Online" : "Offline", statusText: null, lastSeenAt: null }));
      case "RefreshToken":
        connection.token = args[0];
        return null;
      default:
        throw new Failure("not_found", 404, `Unknown hub method '${name}'.`);
    }
  }

  isOnline(userId) {
    return [...this.connections].some(({ user }) => user === userId);
  }

  sync(connection, cursors, { others = "replay", after = null }) {
    const { user } = connection;
    connection.hasSynced = true;
    const conversations = [];
    let next = null;
    for (const [id, cursor] of Object.entries(cursors)) {
      const conversation = this.conversations.get(id);
      if (!conversation?.members.has(user)) {
        conversations.push({ conversationId: id, lastSeq: 0, messageId: null, unreadCount: 0, mentionCount: 0, outcome: "gone" });
        continue;
      }
      conversations.push(this.outcome(connection, conversation, this.replay(connection, conversation, cursor)));
    }
    for (const conversation of this.mine(user)) {
      if (conversation.id in cursors || (after !== null && conversation.id <= after)) continue;
      if (conversations.length >= LISTED && Object.keys(cursors).length < LISTED) {
        next = conversations.at(-1).conversationId;
        break;
      }
      let outcome = "ignored";
      if (connection.attached.has(conversation.id)) outcome = "attached";
      else if (others === "replay") outcome = this.replay(connection, conversation, { seq: 0 });
      else if (others === "attach") (outcome = "attached"), connection.attached.add(conversation.id);
      conversations.push(this.outcome(connection, conversation, outcome));
      if (conversations.length >= LISTED + Object.keys(cursors).length) {
        next = conversation.id;
        break;
      }
    }
    if (next !== null && !this.mine(user).some(({ id }) => id > next)) next = null;
    return { heads: {}, resync: [], conversations, next };
  }

  outcome(connection, conversation, outcome) {
    return { conversationId: conversation.id, ...this.head(conversation), unreadCount: this.unread(conversation, connection.user),
      mentionCount: this.mentioned(conversation, connection.user), outcome,
      settingsVersion: this.view(conversation, connection.user).settings.version };
  }

  replay(connection, conversation, { seq, messageId, changedAt }) {
    // As the server, which keeps when each message was changed: by this change, of this history.
    const named = conversation.messages.some(({ id }) => id === messageId) ? this.versions.get(messageId) : [];
    const isTheOne = (one) => one.changedSeq === seq && (changedAt == null || changedAt === one.changedAt);
    const isProven = messageId == null ? seq <= conversation.lastSeq : named.some(isTheOne);
    const missed = conversation.messages.filter(({ changedSeq }) => changedSeq > seq).sort((a, b) => a.changedSeq - b.changedSeq);
    connection.attached.add(conversation.id);
    if (!isProven || seq > conversation.lastSeq || conversation.lastSeq - seq > BEHIND) {
      connection.event("Resync", { conversationId: conversation.id, ...this.head(conversation) }, conversation.id);
      return "resync";
    }
    for (const wire of missed) connection.event(wire.seq > seq ? "ReceiveMessage" : "MessageChanged", wire, conversation.id);
    return "replayed";
  }

  // -- REST --------------------------------------------------------------------------------------

  rest(user, method, path, query, body) {
    const parts = path.split("/").filter(Boolean).slice(1);
    if (parts[0] === "conversations") {
      if (!parts[1] && method === "GET") {
        const all = this.mine(user).filter(({ id }) => id > (query.get("cursor") ?? ""));
        const items = all.slice(0, 2).map((one) => this.view(one, user));
        return { items, next: all.length > 2 ? all[1].id : null };
      }
      if (!parts[1]) return this.view(this.create(user, body.memberIds, body), user);
      const conversation = this.of(user, parts[1]);
      if (parts[2] === "settings") return this.set(conversation, user, body);
      if (parts[2] === "members" && method === "GET") return { items: [...conversation.members.values()], next: null };
      if (parts[2] === "members" && method === "POST") this.addMember(conversation, user, body.userId);
      else if (parts[2] === "members" && parts[4]) {
        conversation.members.get(parts[3]).role = body.role;
        this.system(conversation, user, { event: "roleChanged", by: user, userId: parts[3], role: body.role });
      } else if (parts[2] === "members") return this.removeMember(conversation, user, parts[3]), null;
      else if (method === "PUT") {
        conversation.name = body.name;
        this.system(conversation, user, { event: "titleChanged", by: user, name: body.name });
      } else if (method === "DELETE") {
        for (const one of this.attached(conversation)) one.event("ConversationRemoved", [conversation.id, "deleted"], null);
        this.conversations.delete(conversation.id);
        return null;
      }
      return this.view(conversation, user);
    }
    if (parts[0] === "messages") {
      if (parts[2] === "reactions") return this.react(user, parts[1], decodeURIComponent(parts[3]), method === "PUT");
      if (method === "POST") return this.send(user, body);
      if (method === "PUT") return this.edit(user, parts[1], body.content, body);
      if (method === "DELETE") return this.delete(user, parts[1]);
      const conversation = this.of(user, query.get("conversationId"));
      const limit = Math.min(Number(query.get("limit") ?? 50), 7); // a page may have fewer than was asked for
      const after = query.get("after");
      const before = Number(query.get("before") ?? Infinity);
      const found = conversation.messages.filter(({ seq }) => (after === null ? seq < before : seq > Number(after)));
      if (after === null) found.reverse();
      const items = found.slice(0, limit);
      return { items, next: found.length > limit ? String(items.at(-1).seq) : null };
    }
    if (parts[0] === "threads" && this.threads.has(`${user} ${parts[1]}`)) return { ...this.threads.get(`${user} ${parts[1]}`), root: null };
    if (parts[0] === "mentions") {
      const found = this.mine(user).flatMap(({ messages }) => messages).filter((one) => one.senderId !== user && !one.deletedAt && (one.mentionAll || one.mentions.includes(user)));
      const start = Number(query.get("cursor") ?? 0);
      return { items: found.reverse().slice(start, start + Number(query.get("limit"))), next: start + Number(query.get("limit")) < found.length ? String(start + Number(query.get("limit"))) : null };
    }
    if (parts[0] === "users" && parts[2] === "unread") {
      const sum = (count) => this.mine(user).reduce((all, one) => all + count(one), 0);
      return { unreadCount: sum((one) => this.unread(one, user)), mentionCount: sum((one) => this.mentioned(one, user)) };
    }
    if (parts[0] === "users" && parts[1] === "me") return { id: user, username: user };
    throw new Failure("not_found", 404);
  }

  /** For the option `fetch`. */
  fetch = async (url, { method = "GET", headers = {}, body = null, signal } = {}) => {
    const { pathname, searchParams } = new URL(url);
    const { dice, network } = this;
    this.requests.push([method, pathname]);
    await this.pause(signal);
    if (dice.chance(network.refuse)) {
      if (dice.chance(0.5)) throw new TypeError("fetch failed");
      return problem(new Failure("unavailable", 503));
    }
    const token = /^Bearer (.*)$/.exec(headers.Authorization ?? "")?.[1] ?? "";
    if (this.refused.has(token)) return problem(new Failure("unauthenticated", 401));
    const user = lower(JSON.parse(atob(token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/"))).sub);
    let answer;
    try {
      if (pathname === "/hubs/chat/negotiate") {
        const connectionToken = newId();
        this.negotiated.set(connectionToken, { user, token });
        answer = json({ connectionToken, connectionId: "x", negotiateVersion: 1, availableTransports: [] });
      } else if (pathname === "/hubs/chat") answer = await this.overHttp(method, searchParams.get("id"), body, signal);
      else answer = json(structuredClone(this.rest(user, method, pathname, searchParams, body && JSON.parse(body)) ?? null));
    } catch (error) {
      if (!(error instanceof Failure)) throw error;
      answer = problem(error);
    }
    await this.pause(signal);
    if (dice.chance(network.lose)) throw new TypeError("fetch failed");
    return answer;
  };

  async pause(signal) {
    const { delay } = this.network;
    await new Promise((resolve) => this.later(resolve, delay ? this.dice.next() * delay : 0));
    if (signal?.aborted) throw new DOMException("Aborted", "AbortError");
  }

  later(call, ms) {
    setTimeout(call, ms);
  }

  // -- transports --------------------------------------------------------------------------------

  async overHttp(method, id, body, signal) {
    const known = [...this.connections].find((one) => one.id === id);
    if (method === "POST") {
      if (!known) throw new Failure("not_found", 404);
      known.receive(body);
      return new Answer();
    }
    if (method === "DELETE") return known?.end(), new Answer("", 202);
    if (known) return known.poll(signal);
    const negotiated = this.negotiated.get(id);
    if (!this.negotiated.delete(id)) throw new Failure("not_found", 404);
    const made = new HttpConnection(this, id, negotiated);
    this.connections.add(made);
    return signal && this.isStreaming ? made.stream(signal) : new Answer();
  }

  /** For the option `WebSocket`. */
  get WebSocket() {
    const server = this;
    return class FakeWebSocket {
      static OPEN = 1;
      readyState = 0;
      constructor(url) {
        server.later(() => {
          const id = new URL(url).searchParams.get("id");
          const negotiated = server.negotiated.get(id);
          const isRefused = server.dice.chance(server.network.refuse) || !server.negotiated.delete(id) || this.readyState !== 0;
          if (isRefused) return this.#over();
          this.connection = new Connection(server, id, negotiated, {
            text: (text) => this.onmessage?.({ data: text }),
            over: () => this.#over(),
          });
          server.connections.add(this.connection);
          this.readyState = 1;
          this.onopen?.({});
        }, server.dice.next() * server.network.delay);
      }
      send(text) {
        this.connection.receive(text);
      }
      close() {
        if (this.readyState === 3) return;
        this.readyState = 3;
        this.connection?.end({ byClient: true });
      }
      #over() {
        if (this.readyState === 3) return;
        this.readyState = 3;
        this.onclose?.({});
      }
    };
  }

  /** Every connection of this user, or all, is cut. */
  cut(user = null) {
    for (const one of [...this.connections]) if (user === null || one.user === user) one.end();
  }

  /** As an instance does that shuts down. */
  drain() {
    for (const one of [...this.connections]) {
      one.write({ type: 7, error: "draining: The server is shutting down.", allowReconnect: true });
      this.later(() => one.end(), this.network.delay + 1);
    }
  }
}

/** One connection at the server; frames go to the client in order, each after a while. */
class Connection {
  constructor(server, id, { user, token }, client) {
    Object.assign(this, { server, id, user, token, client, attached: new Set(), hasSynced: false, isOver: false, isDead: false, hasShaken: false });
    this.queue = [];
    this.isWriting = false;
  }

  /** Of a conversation: passed over when it was detached meanwhile. Answers may overtake it, other events not. */
  event(target, value, conversationId) {
    const args = target === "ConversationRemoved" ? value : [structuredClone(value)];
    this.write({ type: 1, target, arguments: args }, conversationId);
    if (this.server.dice.chance(this.server.network.twice) && target !== "Resync") this.write({ type: 1, target, arguments: args }, conversationId);
  }

  write(message, conversationId = null) {
    if (this.isOver || this.isDead) return;
    if (message.type === 3 && message.isFast) {
      // before events that were published earlier: they come from another instance
      const { isFast: _, ...answer } = message;
      const at = this.queue.findIndex((one) => one.message.type === 1);
      this.queue.splice(at < 0 ? this.queue.length : at, 0, { message: answer, conversationId });
    } else this.queue.push({ message, conversationId });
    if (!this.isWriting) this.drainSoon();
  }

  drainSoon() {
    const { server } = this;
    this.isWriting = true;
    server.later(() => {
      this.isWriting = false;
      if (this.isOver || this.isDead) return;
      const count = 1 + server.dice.below(3);
      const frame = this.queue.splice(0, count).map(({ message }) => JSON.stringify(message) + END);
      if (frame.length) this.client.text(frame.join(""));
      if (server.dice.chance(server.network.cut)) this.fail();
      else if (this.queue.length && !this.isOver) this.drainSoon();
    }, server.dice.next() * server.network.delay);
  }

  receive(text) {
    const { server } = this;
    server.later(() => {
      if (this.isOver || this.isDead) return;
      if (server.dice.chance(server.network.cut)) return this.fail();
      for (const part of text.split(END).slice(0, -1)) {
        this.work(JSON.parse(part));
        if (server.dice.chance(server.network.repeat) && !part.includes('"Sync"')) this.work(JSON.parse(part));
      }
      if (server.dice.chance(server.network.cut)) this.fail();
    }, server.dice.next() * server.network.delay);
  }

  work(message) {
    if (!this.hasShaken) {
      this.hasShaken = true;
      return this.client.text(`{}${END}`);
    }
    if (message.type === 7) return this.end();
    if (message.type !== 1) return;
    const { invocationId, target, arguments: args } = message;
    let answer;
    try {
      answer = { result: structuredClone(this.server.invoke(this, target, args)) };
    } catch (error) {
      if (!(error instanceof Failure)) throw error;
      answer = { error: error.message };
    }
    const isFast = target === "SendMessage" && this.server.dice.chance(0.5);
    this.write({ type: 3, invocationId, ...answer, isFast });
  }

  fail() {
    if (this.server.dice.chance(this.server.network.dead)) this.isDead = true; // it does not say so
    else this.end();
  }

  end({ byClient = false } = {}) {
    if (this.isOver) return;
    this.isOver = true;
    this.server.connections.delete(this);
    const late = this.queue.splice(0);
    if (late.length && this.server.dice.chance(this.server.network.late)) {
      const text = late.map(({ message }) => JSON.stringify(message) + END).join("");
      this.server.later(() => this.client.text(text), this.server.dice.next() * 20);
    }
    if (!byClient) this.client.over();
  }
}

/** The same over Server-Sent Events or long polling. */
class HttpConnection extends Connection {
  constructor(server, id, negotiated) {
    super(server, id, negotiated, { text: (text) => this.arrived(text), over: () => this.closed() });
    this.gathered = "";
  }

  arrived(text) {
    this.gathered += text;
    this.flush?.();
  }

  closed() {
    this.flush?.();
  }

  poll(signal) {
    return new Promise((resolve, reject) => {
      signal?.addEventListener("abort", () => reject(new DOMException("Aborted", "AbortError")));
      this.flush = () => {
        if (!this.gathered && !this.isOver) return;
        this.flush = null;
        const text = this.gathered;
        this.gathered = "";
        resolve(text ? new Answer(text) : new Answer("", 204));
      };
      this.flush();
    });
  }

  stream(signal) {
    const encoder = new TextEncoder();
    return new Response(
      new ReadableStream({
        start: (controller) => {
          controller.enqueue(encoder.encode(":\r\n\r\n"));
          const stop = () => ((this.flush = null), this.end({ byClient: true }));
          signal?.addEventListener("abort", () => (stop(), controller.error(new DOMException("Aborted", "AbortError"))), { once: true });
          this.flush = () => {
            if (this.gathered) controller.enqueue(encoder.encode(`data: ${this.gathered}\n\n`));
            this.gathered = "";
            if (this.isOver && this.flush) {
              this.flush = null;
              controller.close();
            }
          };
        },
      }),
    );
  }
}

/** The little of a Response that is used: real ones take their time. */
class Answer {
  constructor(text = "", status = 200, headers = {}) {
    Object.assign(this, { status, ok: status < 300, headers: new Headers(headers), body: null });
    this.text = async () => text;
    this.json = async () => JSON.parse(text);
  }
}

function json(value) {
  return value === null ? new Answer("", 204) : new Answer(JSON.stringify(value));
}

function problem({ code, status, sentence }) {
  return new Answer(JSON.stringify({ code, status, detail: sentence, title: code }), status);
}
