/**
 * The chat of one user: its conversations, presence, users and files, over a link that comes back for ever. Owns what
 * belongs together: it hands what comes from the server to conversations and outbox, and what they want to the link.
 * @module
 */
import { BlockList } from "./blocks.js";
import { CatchUp } from "./catch-up.js";
import { Conversation } from "./conversation.js";
import { ParleyError, abortedBy, asParleyError, closed } from "./errors.js";
import { Emitter } from "./events.js";
import { Files } from "./files.js";
import { Link } from "./link.js";
import { complete } from "./options.js";
import { Outbox } from "./outbox.js";
import { Persistence } from "./persistence.js";
import { Rest } from "./rest.js";
import { MemoryStore } from "./stores/memory.js";
import { Tabs } from "./tabs.js";
import { Tokens } from "./tokens.js";
import { Backoff, bounded } from "./waiting.js";

const ASKED = 200; // users in one GetPresence
const LISTED = 200; // conversations in one page

/**
 * @typedef {import("./link.js").State} State
 * @typedef {import("./message.js").Message} Message
 * @typedef {import("./conversation.js").ConversationEvents} ConversationEvents
 * @typedef {import("./conversation.js").WireConversation} WireConversation
 *
 * @typedef {object} User
 * @property {string} id
 * @property {string} username
 * @property {string} displayName
 * @property {string | null} avatarUrl
 * @property {UserStatus} status
 * @property {string | null} statusText
 * @property {string | null} lastSeenAt
 * @property {string} createdAt
 * @property {string | null} [externalId] by which an application knows its user
 *
 * @typedef {User & {email: string | null}} Account
 * @typedef {{readReceipts: boolean, typing: boolean, lastSeen: boolean}} Privacy
 * @typedef {{unreadCount: number, conversationCount: number, mutedUnreadCount: number, mutedConversationCount: number,
 *   capped: boolean, mentionCount: number, mutedMentionCount: number, unreadThreads?: number}} UnreadTotals
 * @typedef {import("./conversation.js").ThreadState & {root: import("./timeline.js").WireMessage}} Thread
 * @typedef {"Online" | "Away" | "Busy" | "Offline"} UserStatus
 * @typedef {{userId: string, status: UserStatus, statusText: string | null, lastSeenAt: string | null}} Presence
 *
 * @typedef {{id: string, name: string | null, description: string | null, avatarUrl: string | null,
 *   memberCount: number}} PublicGroup
 * @typedef {{id: string, client: string, address: string, createdAt: string, lastUsedAt: string, expiresAt: string,
 *   current: boolean}} SessionInfo
 *
 * @typedef {{userId: string, role: "User" | "Moderator" | "Administrator", bannedUntil: string | null}} Standing
 * @typedef {{id: string, createdAt: string, userId: string, messageId: string | null, conversationId: string | null,
 *   category: string, comment: string | null, state: "Open" | "Resolved"}} Report
 * @typedef {Report & {reporterId: string | null, content: string | null, note: string | null, resolvedBy: string | null,
 *   resolvedAt: string | null}} FullReport as moderators see it
 *
 * @typedef {object} SearchHit
 * @property {import("./timeline.js").WireMessage} message
 * @property {{field: "content" | "fileName", start: number, length: number}[]} highlights where strings have it
 *
 * @typedef {object} OwnEvents
 * @property {{state: State, previous: State, reason: ParleyError | null}} state
 * @property {Presence} presence
 * @property {{userIds: ReadonlySet<string>}} blocks those whom one has blocked are others
 * @property {{error: ParleyError}} error something is wrong that no call was there to hear of
 * @property {{chat: Chat}} list `conversations` are others, or in another order
 *
 * @typedef {ConversationEvents & OwnEvents} ChatEvents those of all conversations, and of the chat
 */

/** @extends {Emitter<ChatEvents>} */
export class Chat extends Emitter {
  #settings;
  #life = new AbortController();
  #tokens;
  #rest;
  #persistence;
  #tabs;
  #outbox;
  #link;
  #me = "";
  /** @type {State} */
  #state = "connecting";
  /** @type {ParleyError | null} */
  #reason = null;
  /** @type {Map<string, Conversation>} */
  #byId = new Map();
  /** @type {readonly Conversation[] | null} */
  #list = null;
  /** @type {Set<string>} conversations that one has left */
  #left = new Set();
  #isListing = false;
  #isListed = false;
  /** @type {CatchUp | null} */
  #catchUp = null;
  #round = 0; // of catching up
  /** @type {Map<string, Presence>} */
  #presence = new Map();
  /** @type {Set<string>} users whose presence the application wants to know */
  #wanted = new Set();
  #blocks;

  /** @internal Use `Parley.connect`. */
  constructor(/** @type {import("./options.js").Options} */ options) {
    super();
    if (options.onState) this.on("state", options.onState);
    const settings = (this.#settings = complete(options));
    /** @type {import("./stores/store.js").Store} */
    const store = options.store ?? new MemoryStore();
    const life = this.#life.signal;
    this.#tokens = new Tokens(settings.token);
    this.#rest = new Rest(settings.url, this.#tokens, settings.fetch, settings.timing);
    this.#persistence = new Persistence(store, settings.timing.gather, (error) => this.#onError(error));
    this.#tabs = new Tabs(store.scope, life);
    this.#link = new Link(settings, this.#rest, this.#tokens, {
      onState: (state, reason) => this.#onState(state, reason),
      onEvent: (target, args) => this.#onEvent(target, args),
      onError: (error) => this.#onError(error),
      catchUp: (connection) => this.#comeBack(connection),
    });
    this.#outbox = new Outbox({
      tab: this.#tabs.id,
      isLive: () => this.#link.isLive,
      call: (method, args) => this.#link.call(method, args),
      round: (id) => this.#byId.get(id)?.round ?? 0,
      find: ({ conversationId, clientMessageId }) => {
        const conversation = this.#byId.get(conversationId);
        return conversation ? conversation.findOwn(clientMessageId) : null;
      },
      rest: this.#rest,
      persistence: this.#persistence,
      timing: settings.timing,
      life,
      onSent: (entry) => this.#byId.get(entry.draft.conversationId)?.onSent(entry),
      onFailed: (entry, error) => this.#byId.get(entry.draft.conversationId)?.onFailed(entry, error),
      onChange: (id) => this.#byId.get(id)?.onOutbox(),
    });
    this.#blocks = new BlockList(this.#rest, settings.timing, life, {
      onChange: () => this.emit("blocks", { userIds: this.blockedIds }),
      onError: (error) => this.#onError(error),
    });
    this.files = new Files(this.#rest);
  }

  /**
   * @internal
   * @param {AbortSignal} [signal]
   * @returns {Promise<Chat>}
   */
  async start(signal) {
    const stop = () => void this.close(abortedBy(signal));
    signal?.addEventListener("abort", stop, { once: true });
    this.#life.signal.addEventListener("abort", () => signal?.removeEventListener("abort", stop));
    try {
      if (signal?.aborted) throw abortedBy(signal);
      await this.#identify();
      const isRestored = await this.#restore();
      if (this.#life.signal.aborted) throw abortedBy(signal);
      this.#link.start();
      if (!isRestored) await this.whenLive();
      return this;
    } catch (error) {
      await this.close(asParleyError(error));
      throw asParleyError(error);
    }
  }

  // -- what is shown ------------------------------------------------------------------------------

  /** One's own user id. */
  get userId() {
    return this.#me;
  }

  /**
   * `connecting`: a connection is being made; `catching_up`: it is there, and what was missed comes; `live`; `offline`:
   * there is none, and the next attempt is to come; `closed`: for good.
   */
  get state() {
    return this.#state;
  }

  /** Why it is `offline` or `closed`. */
  get reason() {
    return this.#reason;
  }

  /** The conversations, the most recently active first. The same array until something changes. */
  get conversations() {
    return (this.#list ??= Object.freeze(
      [...this.#byId.values()]
        .filter(({ isGone }) => !isGone)
        .map((conversation) => ({ conversation, at: conversation.lastMessage?.createdAt ?? conversation.createdAt ?? "" }))
        .sort((one, other) => (one.at < other.at ? 1 : one.at > other.at ? -1 : one.conversation.id < other.conversation.id ? -1 : 1))
        .map(({ conversation }) => conversation),
    ));
  }

  /** Messages of others that one has not read, in all conversations. */
  get unreadCount() {
    return this.conversations.reduce((sum, { unreadCount }) => sum + unreadCount, 0);
  }

  /** Those of them that mention one, by name or as one of all. */
  get mentionCount() {
    return this.conversations.reduce((sum, { mentionCount }) => sum + mentionCount, 0);
  }

  /** How many messages wait to be sent. */
  get pendingCount() {
    return this.#outbox.size;
  }

  /** @param {string} id */
  conversation(id) {
    return this.#byId.get(id.toLowerCase());
  }

  /**
   * Wait until everything that was missed is there. Raises the reason when the chat is closed.
   * @param {{signal?: AbortSignal}} [options]
   * @returns {Promise<void>}
   */
  whenLive({ signal } = {}) {
    return new Promise((resolve, reject) => {
      const off = this.on("state", () => look());
      const look = () => {
        if (this.#state !== "live" && this.#state !== "closed" && !signal?.aborted) return;
        off();
        signal?.removeEventListener("abort", look);
        if (this.#state === "live") resolve();
        else reject(this.#state === "closed" ? (this.#reason ?? closed()) : abortedBy(signal));
      };
      signal?.addEventListener("abort", look);
      look();
    });
  }

  /**
   * New messages in any conversation, from now on: `for await (const message of chat.messages())`.
   * @param {{signal?: AbortSignal}} [options]
   * @returns {AsyncIterableIterator<{conversation: Conversation, message: Message}>}
   */
  messages(options = {}) {
    return this.events("message", options);
  }

  // -- conversations and users --------------------------------------------------------------------

  /**
   * The conversation with one other user; it is made if there is none.
   * @param {string} userId
   * @param {{signal?: AbortSignal}} [options]
   */
  createDirect(userId, options = {}) {
    return this.#create("/api/conversations", { type: "Direct", memberIds: [userId] }, options);
  }

  /**
   * @param {{name?: string, memberIds?: string[]}} group
   * @param {{signal?: AbortSignal}} [options]
   */
  createGroup({ name, memberIds = [] }, options = {}) {
    return this.#create("/api/conversations", { type: "Group", memberIds, name }, options);
  }

  /**
   * Join a group by the token of a link. Who is a member already stays so.
   * @param {string} token
   * @param {{signal?: AbortSignal}} [options]
   */
  join(token, options = {}) {
    return this.#create("/api/join", { token }, options);
  }

  /**
   * Join a public group.
   * @param {string} groupId
   * @param {{signal?: AbortSignal}} [options]
   */
  joinGroup(groupId, options = {}) {
    return this.#create(`/api/conversations/${groupId}/join`, {}, options);
  }

  /**
   * Public groups with a word in name or description that begins so. A page may have few items, or none, without being
   * the last; only where `next` is null there is no more.
   * @param {string} [text]
   * @param {{limit?: number, cursor?: string | null, signal?: AbortSignal}} [options]
   * @returns {Promise<{items: PublicGroup[], next: string | null}>}
   */
  searchGroups(text = "", { limit = 20, cursor = null, signal } = {}) {
    return this.#rest.get("/api/groups", { query: { q: text, limit, cursor }, signal });
  }

  /**
   * @param {string} path
   * @param {object} body
   * @param {{signal?: AbortSignal}} options
   */
  async #create(path, body, { signal }) {
    const key = crypto.randomUUID();
    let isOfNow = this.#asking();
    /** @type {WireConversation} */
    let details = await this.#rest.request("POST", path, { body, key, signal });
    while (!isOfNow(details.id)) {
      isOfNow = this.#asking();
      details = await this.#rest.get(`/api/conversations/${details.id}`, { signal });
    }
    const conversation = this.#make(details.id);
    if (!conversation.onDetails(details)) void conversation.refresh();
    return conversation;
  }

  /**
   * Users whose name begins so.
   * @param {string} text
   * @param {{limit?: number, cursor?: string | null, signal?: AbortSignal}} [options]
   * @returns {Promise<{items: User[], next: string | null}>}
   */
  searchUsers(text, { limit = 20, cursor = null, signal } = {}) {
    return this.#rest.get("/api/users", { query: { q: text, limit, cursor }, signal });
  }

  /**
   * Messages that have the words, the newest first: in all conversations, or in one. A page may have few items, or none,
   * without being the last; only where `next` is null there is no more. Each item has the message as the server gives it
   * (`conversation.loadTo(message.id)` shows it where it stands), and the places in its `content`, or in its file's name.
   * @param {string} text words, "phrases", beginnings*
   * @param {{conversationId?: string, senderId?: string, before?: string, after?: string, has?: "file" | "link",
   *   limit?: number, cursor?: string | null, signal?: AbortSignal}} [options] `before` and `after`: times
   * @returns {Promise<{items: SearchHit[], next: string | null}>}
   */
  searchMessages(text, { signal, limit = 20, ...query } = {}) {
    return this.#rest.get("/api/search/messages", { query: { q: text, limit, ...query }, signal });
  }

  /**
   * The messages that mention one, by name or as one of all, as the server gives them, the newest first. A page may have
   * few items without being the last.
   * @param {{limit?: number, cursor?: string | null, signal?: AbortSignal}} [options]
   * @returns {Promise<{items: import("./timeline.js").WireMessage[], next: string | null}>}
   */
  mentions({ limit = 50, cursor = null, signal } = {}) {
    return this.#rest.get("/api/mentions", { query: { limit, cursor }, signal });
  }

  /**
   * A message as it is now, as the server gives it: of any conversation, loaded or not.
   * @param {string} id
   * @param {{signal?: AbortSignal}} [options]
   * @returns {Promise<import("./timeline.js").WireMessage>}
   */
  message(id, { signal } = {}) {
    return this.#rest.get(`/api/messages/${id}`, { signal });
  }

  /**
   * The user with this name, in any case; null when there is none.
   * @param {string} username
   * @param {{signal?: AbortSignal}} [options]
   * @returns {Promise<User | null>}
   */
  async findUser(username, options = {}) {
    const { items } = await this.searchUsers(username, { ...options, limit: LISTED });
    return items.find((user) => user.username.toLowerCase() === username.toLowerCase()) ?? null;
  }

  /**
   * @param {string} id
   * @param {{signal?: AbortSignal}} [options]
   * @returns {Promise<User>}
   */
  user(id, { signal } = {}) {
    return this.#rest.get(`/api/users/${id}`, { signal });
  }

  /**
   * One's own account.
   * @param {{signal?: AbortSignal}} [options]
   * @returns {Promise<Account>}
   */
  me({ signal } = {}) {
    return this.#rest.get("/api/users/me", { signal });
  }

  /**
   * What one has not read, as the server counts it: also of conversations that are not here yet. Where it is `capped`,
   * there may be more.
   * @param {{signal?: AbortSignal}} [options]
   * @returns {Promise<UnreadTotals>}
   */
  unread({ signal } = {}) {
    return this.#rest.get("/api/users/me/unread", { signal });
  }

  /**
   * The threads that one follows, the one with the last reply first; with `unread` those with replies one has not read.
   * @param {{unread?: boolean, signal?: AbortSignal}} [options]
   * @returns {Promise<Thread[]>}
   */
  async threads({ unread = false, signal } = {}) {
    const isOfNow = this.#asking();
    /** @type {Thread[]} */
    const found = await this.#rest.all("/api/threads", { query: { unread: String(unread) }, signal });
    for (const { root: _, ...state } of found)
      if (isOfNow(state.conversationId)) this.#byId.get(state.conversationId)?.onThread(state);
    return found;
  }

  /**
   * Change one's own account; what is left out stays.
   * @param {{displayName?: string, avatarUrl?: string | null, email?: string | null, statusText?: string | null}} changes
   * @param {{signal?: AbortSignal}} [options]
   * @returns {Promise<Account>}
   */
  updateMe(changes, { signal } = {}) {
    return this.#rest.request("PUT", "/api/users/me", { body: changes, signal });
  }

  /**
   * Where one is signed in, the newest first.
   * @param {{signal?: AbortSignal}} [options]
   * @returns {Promise<SessionInfo[]>}
   */
  sessions({ signal } = {}) {
    return this.#rest.all("/auth/sessions", { signal });
  }

  /**
   * Keep a user away: no direct messages of theirs, and neither sees when the other is there. They do not learn it.
   * @param {string} userId
   * @param {{signal?: AbortSignal}} [options]
   */
  async block(userId, { signal } = {}) {
    await this.#rest.request("PUT", `/api/users/me/blocks/${userId}`, { signal });
    this.#blocks.set(userId, true);
  }

  /**
   * @param {string} userId
   * @param {{signal?: AbortSignal}} [options]
   */
  async unblock(userId, { signal } = {}) {
    await this.#rest.request("DELETE", `/api/users/me/blocks/${userId}`, { signal });
    this.#blocks.set(userId, false);
  }

  /**
   * The users whom one has blocked, all of them, read from the server.
   * @param {{signal?: AbortSignal}} [options]
   * @returns {Promise<import("./blocks.js").Block[]>}
   */
  blocks({ signal } = {}) {
    return this.#blocks.list(signal);
  }

  /** Their ids, kept current, whichever device of one's own has blocked them: see the event `blocks`. */
  get blockedIds() {
    return this.#blocks.ids;
  }

  /** @param {string} userId */
  isBlocked(userId) {
    return this.#blocks.ids.has(userId);
  }

  /**
   * Report a message or a user to the moderators: as Spam, Harassment, Hate, Violence, Sexual, SelfHarm or Other.
   * @param {{category: string, messageId?: string, userId?: string, comment?: string}} what
   * @param {{signal?: AbortSignal}} [options]
   * @returns {Promise<Report>}
   */
  report({ category, messageId, userId, comment }, { signal } = {}) {
    return this.#rest.request("POST", "/api/reports", {
      body: { category, messageId, userId, comment },
      key: crypto.randomUUID(),
      signal,
    });
  }

  /**
   * What one has reported, the oldest first.
   * @param {{limit?: number, cursor?: string | null, signal?: AbortSignal}} [options]
   * @returns {Promise<{items: Report[], next: string | null}>}
   */
  ownReports({ limit = 50, cursor = null, signal } = {}) {
    return this.#rest.get("/api/users/me/reports", { query: { limit, cursor }, signal });
  }

  // -- for moderators of the service ----------------------------------------------------------------

  /**
   * One's own role in the service, or for moderators anybody's, and until when they are banned.
   * @param {string} [userId]
   * @param {{signal?: AbortSignal}} [options]
   * @returns {Promise<Standing>}
   */
  standing(userId = this.#me, { signal } = {}) {
    return this.#rest.get(`/api/users/${userId}/standing`, { signal });
  }

  /**
   * Reports, the oldest first.
   * @param {{state?: "Open" | "Resolved", userId?: string, limit?: number, cursor?: string | null, signal?: AbortSignal}} [options]
   * @returns {Promise<{items: FullReport[], next: string | null}>}
   */
  reports({ state, userId, limit = 50, cursor = null, signal } = {}) {
    return this.#rest.get("/api/reports", { query: { state: state?.toLowerCase(), userId, limit, cursor }, signal });
  }

  /**
   * Decide on a report, with a note for other moderators, and what is done with the decision: `act`, until then, or for
   * good.
   * @param {string} id
   * @param {{note?: string, act?: "DeleteMessage" | "MuteMember" | "KeepOut" | "BanUser", until?: Date | null,
   *   signal?: AbortSignal}} [options]
   * @returns {Promise<FullReport>}
   */
  resolveReport(id, { note, act, until, signal } = {}) {
    return this.#rest.request("PUT", `/api/reports/${id}/resolution`, { body: { note, act, until }, signal });
  }

  /**
   * Ban a user until then, or for good. `reason` is for the audit log, as in all of these.
   * @param {string} userId
   * @param {{until?: Date | null, reason?: string, signal?: AbortSignal}} [options]
   * @returns {Promise<Standing>}
   */
  ban(userId, { until, reason, signal } = {}) {
    return this.#rest.request("PUT", `/api/users/${userId}/ban`, { body: { until, reason }, signal });
  }

  /**
   * @param {string} userId
   * @param {{reason?: string, signal?: AbortSignal}} [options]
   * @returns {Promise<Standing>}
   */
  unban(userId, { reason, signal } = {}) {
    return this.#rest.request("DELETE", `/api/users/${userId}/ban`, { query: { reason }, signal });
  }

  /**
   * End all sessions and connections of a user, who may sign in again.
   * @param {string} userId
   * @param {{reason?: string, signal?: AbortSignal}} [options]
   * @returns {Promise<Standing>}
   */
  endSessions(userId, { reason, signal } = {}) {
    return this.#rest.request("DELETE", `/api/users/${userId}/sessions`, { query: { reason }, signal });
  }

  /**
   * Give a user another name; what is left out stays.
   * @param {string} userId
   * @param {{username?: string, displayName?: string, reason?: string, signal?: AbortSignal}} changes
   * @returns {Promise<User>}
   */
  renameUser(userId, { signal, ...changes }) {
    return this.#rest.request("PUT", `/api/users/${userId}/name`, { body: changes, signal });
  }

  /**
   * For administrators.
   * @param {string} userId
   * @param {Standing["role"]} role
   * @param {{reason?: string, signal?: AbortSignal}} [options]
   * @returns {Promise<Standing>}
   */
  setUserRole(userId, role, { reason, signal } = {}) {
    return this.#rest.request("PUT", `/api/users/${userId}/role`, { body: { role, reason }, signal });
  }

  // -- oneself ------------------------------------------------------------------------------------

  /**
   * Sign out somewhere else, or here.
   * @param {string} id
   * @param {{signal?: AbortSignal}} [options]
   */
  async endSession(id, { signal } = {}) {
    await this.#rest.request("DELETE", `/auth/sessions/${id}`, { signal });
  }

  /**
   * All one's data, as a ZIP file.
   * @param {{signal?: AbortSignal}} [options]
   * @returns {Promise<Blob>}
   */
  export({ signal } = {}) {
    return this.#rest.blob("/api/users/me/export", { signal });
  }

  /**
   * Erase oneself: one's messages stay, as those of a deleted user. The chat is closed.
   * @param {{signal?: AbortSignal}} [options]
   */
  async deleteAccount({ signal } = {}) {
    await this.#rest.request("DELETE", `/api/users/${this.#me}`, { signal });
  }

  /**
   * What one shows to others, and sees of them.
   * @param {{signal?: AbortSignal}} [options]
   * @returns {Promise<Privacy>}
   */
  privacy({ signal } = {}) {
    return this.#rest.get("/api/users/me/privacy", { signal });
  }

  /**
   * Change what one shows to others: what one hides one does not see of others, either. What is left out stays.
   * @param {Partial<Privacy>} changes
   * @param {{signal?: AbortSignal}} [options]
   * @returns {Promise<Privacy>}
   */
  setPrivacy(changes, { signal } = {}) {
    return this.#rest.request("PUT", "/api/users/me/privacy", { body: changes, signal });
  }

  /**
   * How one is shown while one is connected.
   * @param {UserStatus} status
   * @param {{text?: string, signal?: AbortSignal}} [options]
   * @returns {Promise<Account>}
   */
  setStatus(status, { text, signal } = {}) {
    return this.#rest.request("PUT", "/api/users/status", { body: { status, statusText: text ?? null }, signal });
  }

  /**
   * How these users are shown. From then on that is kept current: see `presenceOf`, and the event `presence`.
   * @param {string[]} userIds
   * @param {{signal?: AbortSignal}} [options]
   * @returns {Promise<Presence[]>}
   */
  async presence(userIds, { signal } = {}) {
    for (const id of userIds) this.#wanted.add(id);
    await this.#askPresence(userIds, signal);
    return userIds.flatMap((id) => this.#presence.get(id) ?? []);
  }

  /**
   * @param {string} userId
   * @returns {Presence | null} null when it is not known
   */
  presenceOf(userId) {
    return this.#presence.get(userId) ?? null;
  }

  /**
   * Any other request of the REST interface, with the access token.
   * @param {string} method
   * @param {string} path
   * @param {import("./rest.js").RequestOptions} [options]
   * @returns {Promise<any>}
   */
  request(method, path, options) {
    return this.#rest.request(method, path, options);
  }

  /** Wait until everything that was sent is there, or refused. */
  async flush() {
    const pending = this.conversations.flatMap(({ messages }) => messages.filter(({ status }) => status === "pending"));
    await Promise.allSettled(pending.map((message) => message.whenSent()));
  }

  /** Try now to connect, whatever the pause between two attempts. */
  reconnect() {
    this.#link.tryNow();
  }

  /**
   * The end. What is not sent stays in the store.
   * @param {ParleyError} [reason]
   */
  async close(reason = closed()) {
    this.#link.close(reason);
    await this.#persistence.close();
  }

  // -- the beginning ------------------------------------------------------------------------------

  async #identify() {
    await bounded(this.#tokens.get(), null, this.#life.signal);
    this.#me = this.#tokens.userId ?? (await this.me({ signal: this.#life.signal })).id;
  }

  /** @returns {Promise<boolean>} whether there was something in the store */
  async #restore() {
    const { conversations, drafts, sent } = await this.#persistence.load(this.#me, this.#settings.url);
    this.#outbox.restore([], sent);
    for (const [id, kept] of conversations) this.#make(id, kept);
    const watch = (/** @type {string} */ tab) => this.#tabs.whenGone(tab, () => this.#takeOver(tab));
    if (!this.#tabs.areKnown) this.#outbox.adopt(drafts);
    else for (const { owner } of drafts) watch(owner);
    void this.#tabs.meet(watch);
    return conversations.size > 0;
  }

  /** @param {string} tab that is gone */
  async #takeOver(tab) {
    const left = await this.#persistence.drafts();
    this.#outbox.adopt(left.filter(({ owner }) => owner === tab));
    await this.#persistence.flush();
  }

  // -- the link -----------------------------------------------------------------------------------

  /**
   * @param {State} state
   * @param {ParleyError | null} reason
   */
  #onState(state, reason) {
    const previous = this.#state;
    if (previous === "closed") return;
    this.#state = state;
    this.#reason = reason;
    if (state === "closed") {
      this.#life.abort(reason);
      this.#outbox.close();
      for (const conversation of this.#byId.values()) conversation.stop();
      void this.#persistence.close();
    }
    if (state !== previous || state === "offline") this.emit("state", { state, previous, reason });
    if (state === "live") {
      this.#outbox.resume();
      for (const conversation of this.#byId.values()) conversation.resume();
    }
    if (state === "closed") for (const each of [...this.#byId.values(), this]) each.dispatchEvent(new Event("over"));
  }

  /** @param {import("./connection.js").Connection} connection */
  async #comeBack(connection) {
    const life = this.#life.signal;
    this.#round++;
    const catchUp = (this.#catchUp = new CatchUp({
      known: () => this.#byId.values(),
      find: (id) => this.#byId.get(id),
      make: (id) => this.#make(id),
      forget: (conversation, reason) => this.#forget(conversation, reason),
      onBlocks: (version) => this.#blocks.hear(version),
    }));
    try {
      await catchUp.run(connection, life);
    } finally {
      if (this.#catchUp === catchUp) this.#catchUp = null;
    }
    if (this.#isListed) void this.#refreshAll();
    else await this.#listPage(null).then((next) => void this.#refreshAll(next));
  }

  /**
   * @param {string} target
   * @param {any[]} args
   */
  #onEvent(target, [detail, reason]) {
    switch (target) {
      case "ReceiveMessage":
      case "MessageChanged":
        return this.#onMessage(detail, target === "ReceiveMessage");
      case "Resync":
        return this.#onResync(detail);
      case "ConversationChanged":
        return this.#make(detail.id).onDetails(detail);
      case "ConversationRemoved": {
        const conversation = this.#byId.get(detail);
        this.#catchUp?.noteRemoved(detail);
        this.#left.add(detail);
        if (conversation) this.#forget(conversation, reason);
        return;
      }
      case "ThreadChanged":
        return this.#byId.get(detail.conversationId)?.onThread(detail);
      case "BlocksChanged":
        return this.#blocks.hear(detail.version);
      case "MessageStatusUpdated":
        return this.#byId.get(detail.conversationId)?.onReceipt(detail);
      case "UserStatusChanged":
        this.#presence.set(detail.userId, detail);
        return this.emit("presence", detail);
      case "UserStartedTyping":
      case "UserStoppedTyping":
        return this.#byId.get(detail.conversationId)?.onTyping(detail.userId, target === "UserStartedTyping");
      case "Error":
        return this.#onError(new ParleyError("internal", String(detail)));
    }
  }

  /**
   * @param {import("./timeline.js").WireMessage} wire
   * @param {boolean} isNew
   */
  #onMessage(wire, isNew) {
    if (this.#catchUp?.keeps(wire, isNew)) return;
    const isKnown = this.#byId.has(wire.conversationId);
    const conversation = this.#make(wire.conversationId);
    conversation.onMessage(wire, isNew);
    if (!isKnown) void conversation.refresh();
  }

  /** @param {{conversationId: string, lastSeq: number, messageId: string | null}} notice */
  #onResync({ conversationId, lastSeq, messageId }) {
    const cursor = { seq: lastSeq, messageId };
    if (this.#catchUp?.keepsResync(conversationId, cursor)) return;
    this.#make(conversationId).onResync(cursor);
  }

  // -- conversations ------------------------------------------------------------------------------

  /**
   * @param {string} id
   * @param {import("./conversation.js").Kept} [kept]
   */
  #make(id, kept) {
    const known = this.#byId.get(id);
    if (known) return known;
    const conversation = new Conversation(
      id,
      {
        me: this.#me,
        rest: this.#rest,
        outbox: this.#outbox,
        persistence: this.#persistence,
        settings: this.#settings,
        life: this.#life.signal,
        isLive: () => this.#link.isLive,
        isCatchingUp: () => this.#catchUp !== null,
        call: (method, args, signal) => this.#link.call(method, args, signal),
        announce: (type, detail) => this.#announce(type, detail),
        forget: (each, reason) => this.#forget(each, reason),
        onError: (error) => this.#onError(asParleyError(error)),
      },
      kept,
    );
    this.#byId.set(id, conversation);
    this.#left.delete(id);
    this.#relist();
    return conversation;
  }

  /**
   * @param {Conversation} conversation
   * @param {string} reason
   */
  #forget(conversation, reason) {
    this.#byId.delete(conversation.id);
    this.#left.add(conversation.id);
    this.#relist();
    conversation.onRemoved(reason);
  }

  /**
   * @param {keyof ConversationEvents} type
   * @param {any} detail
   */
  #announce(type, detail) {
    this.emit(type, detail);
    if (type === "update") this.#relist();
  }

  #relist() {
    const before = this.#list;
    this.#list = null;
    if (this.#isListing) return;
    this.#isListing = true;
    queueMicrotask(() => {
      this.#isListing = false;
      const list = this.conversations;
      if (before?.length === list.length && list.every((one, index) => one === before[index])) this.#list = before;
      else this.emit("list", { chat: this });
    });
  }

  /** @param {string | null} cursor */
  async #listPage(cursor) {
    const round = this.#round;
    const isOfNow = this.#asking();
    /** @type {{items: WireConversation[], next: string | null}} */
    const page = await this.#rest.get("/api/conversations", { query: { limit: LISTED, cursor }, signal: this.#life.signal });
    if (round !== this.#round) throw new ParleyError("network", "The connection was lost."); // it knows less than the next
    // A page may be older than what events have said.
    for (const details of page.items) {
      if (this.#left.has(details.id)) continue;
      const conversation = this.#make(details.id);
      if (!isOfNow(details.id) || !conversation.onDetails(details)) void conversation.refresh();
    }
    return page.next;
  }

  /** Whether what is asked for now is, when it is answered, of the history that there is then. */
  #asking() {
    const round = this.#round;
    const rounds = new Map([...this.#byId].map(([id, conversation]) => [id, conversation.round]));
    return (/** @type {string} */ id) => round === this.#round && (this.#byId.get(id)?.round ?? 0) === (rounds.get(id) ?? 0);
  }

  /**
   * Read all that events do not repeat: names, members, receipts, presence. Does not raise.
   * @param {string | null} [next] where the list goes on
   */
  async #refreshAll(next) {
    const { timing } = this.#settings;
    const pauses = new Backoff(timing);
    let isPresent = false;
    let cursor = next === undefined ? null : next;
    let isDone = next === null;
    const round = this.#round;
    while (round === this.#round && !this.#life.signal.aborted) {
      try {
        while (!isDone) {
          cursor = await this.#listPage(cursor);
          isDone = cursor === null;
        }
        this.#isListed = true;
        if (!isPresent && this.#wanted.size) await this.#askPresence([...this.#wanted]);
        isPresent = true;
        return;
      } catch (error) {
        const known = asParleyError(error);
        if (this.#life.signal.aborted) return;
        if (!known.isPassing) return this.#onError(known);
        await pauses.pass(this.#life.signal, known.retryAfterMs);
      }
    }
  }

  /**
   * @param {string[]} userIds
   * @param {AbortSignal} [signal]
   */
  async #askPresence(userIds, signal) {
    for (let start = 0; start < userIds.length; start += ASKED) {
      /** @type {Presence[]} */
      const found = await this.#link.call("GetPresence", [userIds.slice(start, start + ASKED)], signal);
      for (const one of found) {
        const before = this.#presence.get(one.userId);
        this.#presence.set(one.userId, one);
        if (before?.status !== one.status || before.statusText !== one.statusText) this.emit("presence", one);
      }
    }
  }

  /** @param {ParleyError} error */
  #onError(error) {
    if (!this.#life.signal.aborted) this.emit("error", { error });
  }
}
