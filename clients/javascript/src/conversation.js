/**
 * One conversation: its messages, members, receipts and typing as applications see them, and what can be done in it.
 * Owns how its view is read anew when it could not be caught up with. What comes from the server is given to it by
 * `chat.js`.
 * @module
 */
import { ParleyError, abortedBy, asParleyError } from "./errors.js";
import { Emitter } from "./events.js";
import { Members } from "./members.js";
import { Message, isMention } from "./message.js";
import { errorOf } from "./outbox.js";
import { keyOf } from "./persistence.js";
import { Timeline, isMain } from "./timeline.js";
import { Backoff } from "./waiting.js";

const PAGE = 200; // messages that are read at once, to read anew
const IN_ADDITION = 1000; // messages that are read anew beyond the number that was shown
const TYPING_ENDS = 7_000; // ms
const OVERTAKEN = 8; // answers that are older than what has come, until no other is asked for
const FOR_EVER = "9999-12-31T23:59:59.999Z";
const COUNTED = 1000; // unread messages are counted among the newest of these

/**
 * @typedef {import("./timeline.js").WireMessage} WireMessage
 * @typedef {import("./timeline.js").Cursor} Cursor
 * @typedef {import("./members.js").Member} Member
 * @typedef {import("./outbox.js").Entry} Entry
 *
 * @typedef {object} WireConversation
 * @property {string} id
 * @property {"Direct" | "Group"} type
 * @property {string | null} [name]
 * @property {string | null} [createdBy]
 * @property {string} createdAt
 * @property {number} lastSeq
 * @property {WireMessage | null} [lastMessage]
 * @property {number} unreadCount
 * @property {number} [mentionCount]
 * @property {number} memberCount
 * @property {Member[]} members
 * @property {ConversationSettings} [settings] what one has set for oneself
 * @property {string | null} [description]
 * @property {string | null} [avatarUrl]
 * @property {"Everyone" | "Admins"} [posting]
 * @property {number} [slowModeSeconds]
 * @property {boolean} [isPublic]
 *
 * @typedef {object} JoinLink
 * @property {string} id
 * @property {string} createdBy
 * @property {string} createdAt
 * @property {string} expiresAt
 * @property {number | null} maxUses
 * @property {number} uses
 * @property {string} [token] shown once, when it is made
 *
 * @typedef {object} ConversationSettings
 * @property {boolean} archived
 * @property {boolean} favourite
 * @property {{mutedUntil: string | null}} notifications
 * @property {number} version of two, the one with the higher version is the later one
 *
 * @typedef {object} ThreadState what a thread is to the user, as of its last reply
 * @property {string} threadId
 * @property {string} conversationId
 * @property {boolean} isFollowing
 * @property {number} readSeq
 * @property {number} unreadCount
 * @property {number} lastReplySeq
 * @property {number} version of two, the one with the higher version is the later one
 *
 * @typedef {object} Kept what the store keeps of it
 * @property {WireConversation | null} details
 * @property {import("./timeline.js").Snapshot | null} timeline
 * @property {boolean} isStale whether what is kept must be read anew
 * @property {number} read up to where one has read, if the server does not know it yet
 *
 * @typedef {object} ConversationEvents
 * @property {{conversation: Conversation, message: Message}} message a new message, unless this client has sent it
 * @property {{conversation: Conversation, message: Message}} change a message that was edited, deleted or reacted to
 * @property {{conversation: Conversation, message: Message}} sent a message of this client
 * @property {{conversation: Conversation, message: Message, error: ParleyError}} failed
 * @property {{conversation: Conversation}} conversation its name, members, roles or settings
 * @property {{conversation: Conversation}} reset it was read anew: look at `messages` as if for the first time
 * @property {{conversation: Conversation, reason: string}} removed
 * @property {{conversation: Conversation, userId: string, status: "Delivered" | "Read", seq: number, at: string}} receipt
 * @property {{conversation: Conversation, thread: ThreadState}} thread one has followed, left or read a thread, on any device
 * @property {{conversation: Conversation, userId: string, isTyping: boolean}} typing
 * @property {{conversation: Conversation}} update something that is shown has changed, whatever; once for many changes
 *
 * @typedef {object} SendOptions
 * @property {"Text" | "Image" | "File" | "Emoji"} [type]
 * @property {string} [fileId] of a file that was uploaded
 * @property {string} [replyToId]
 * @property {string[]} [mentions] user ids of members
 * @property {boolean} [mentionAll]
 * @property {string} [threadId] the id of the message to which it is a reply in a thread
 * @property {boolean} [alsoInConversation] the main history shows that reply, too
 * @property {string} [clientMessageId] a UUID is made when it is left out
 *
 * @typedef {object} Host what it needs of the chat
 * @property {string} me
 * @property {import("./rest.js").Rest} rest
 * @property {import("./outbox.js").Outbox} outbox
 * @property {import("./persistence.js").Persistence} persistence
 * @property {import("./options.js").Settings} settings
 * @property {AbortSignal} life
 * @property {() => boolean} isLive
 * @property {() => boolean} isCatchingUp it is not known yet where conversations are attached
 * @property {(method: string, args: any[], signal?: AbortSignal) => Promise<any>} call
 * @property {(type: keyof ConversationEvents, detail: any) => void} announce
 * @property {(conversation: Conversation, reason: string) => void} forget
 * @property {(error: unknown) => void} onError
 */

/** @extends {Emitter<ConversationEvents>} */
export class Conversation extends Emitter {
  #host;
  /** @type {WireConversation | null} */
  #details = null;
  #members;
  /** @type {Timeline | null} what is shown */
  #shown = null;
  /** @type {Timeline | null} what is being read anew */
  #next = null;
  /** @type {(() => void)[]} events that belong to what is being read anew */
  #deferred = [];
  /** @type {(() => void)[]} events that came before the details, without which it cannot be said where it was */
  #unheard = [];
  #generation = 0;
  #round = 0;
  /** @type {Map<string, ReturnType<typeof setTimeout>>} */
  #typing = new Map();
  #typedAt = 0;
  #delivered = 0;
  #deliveredSaid = 0;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #deliveredTimer;
  #read = 0;
  #isReading = false;
  #isGone = false;
  #isRefreshing = false;
  #isRefreshWanted = false;
  #isUpdating = false;
  /** @type {readonly Message[] | null} */
  #messages = null;
  /** @type {readonly Message[] | null} */
  #all = null;
  /** @type {Map<string, ThreadState>} by root, as far as something was said of them */
  #threads = new Map();
  /** Roots of which it was said on this connection: of others something may have changed. */
  #heard = new Set();
  /** Roots of which it is to be asked. */
  #asked = new Set();
  #isAsking = false;
  /** @type {Map<string, {wire: WireMessage, message: Message}>} */
  #snapshots = new Map();
  /** @type {import("./message.js").Actions} */
  #actions;

  /**
   * @param {string} id
   * @param {Host} host
   * @param {Kept} [kept]
   */
  constructor(id, host, kept) {
    super();
    this.id = id;
    this.#host = host;
    this.#members = new Members(host.me);
    this.#actions = {
      retry: (message) => this.#withEntry(message, (entry) => host.outbox.retry(entry)),
      discard: (message) => this.#withEntry(message, (entry) => host.outbox.discard(entry)) ?? false,
      whenSent: (message) => this.#whenSent(message),
      edit: (message, change, signal) => this.#edit(message, change, signal),
      react: (message, emoji, signal) => this.#react("PUT", message, emoji, signal),
      unreact: (message, emoji, signal) => this.#react("DELETE", message, emoji, signal),
      pin: (message, isPinned, signal) => this.#pin(message, isPinned, signal),
      delete: (message, signal) => this.#delete(message, signal),
    };
    if (!kept) return;
    if (kept.details) this.setDetails(kept.details);
    this.#read = kept.read;
    if (!kept.timeline) return;
    this.#shown = Timeline.from(kept.timeline);
    if (kept.isStale) this.#readAnew(new Timeline(kept.timeline.cursor, kept.timeline.cursor.seq + 1));
  }

  // -- what is shown ------------------------------------------------------------------------------

  /** `Direct` or `Group`; null until it is known. */
  get type() {
    return this.#details?.type ?? null;
  }

  get name() {
    return this.#details?.name ?? null;
  }

  get description() {
    return this.#details?.description ?? null;
  }

  get avatarUrl() {
    return this.#details?.avatarUrl ?? null;
  }

  /** Who may send messages: `Everyone` or `Admins`. */
  get posting() {
    return this.#details?.posting ?? "Everyone";
  }

  /** Seconds between two messages of one member who is no admin; 0: none. */
  get slowModeSeconds() {
    return this.#details?.slowModeSeconds ?? 0;
  }

  /** Whether anybody may find and join it. */
  get isPublic() {
    return this.#details?.isPublic ?? false;
  }

  get createdBy() {
    return this.#details?.createdBy ?? null;
  }

  get createdAt() {
    return this.#details?.createdAt ?? null;
  }

  /** Those that are known: of a large group the first 100, until `loadMembers` has read the others. */
  get members() {
    return this.#members.list;
  }

  get memberCount() {
    return this.#members.count;
  }

  /** One's own role; null when it is not known. */
  get role() {
    return this.#members.list.find(({ userId }) => userId === this.#host.me)?.role ?? null;
  }

  /** Whether one is no member any more. */
  get isGone() {
    return this.#isGone;
  }

  /** Whether it is being read anew; what is shown is what was there before. */
  get isResetting() {
    return this.#next !== null;
  }

  /** Whether there are no messages before those in `messages`. */
  get isComplete() {
    return this.#shown?.isComplete ?? false;
  }

  /** Whether one has put it away, on all one's devices. */
  get isArchived() {
    return this.#details?.settings?.archived ?? false;
  }

  get isFavourite() {
    return this.#details?.settings?.favourite ?? false;
  }

  /** Until when one wants no notifications; null when one does. For ever is the end of the year 9999. */
  get mutedUntil() {
    const until = this.#details?.settings?.notifications.mutedUntil;
    return until ? new Date(until) : null;
  }

  /** Whether one wants no notifications now. */
  get isMuted() {
    const until = this.mutedUntil;
    return until !== null && until.getTime() > Date.now();
  }

  /** The last change that has come. */
  get cursor() {
    return this.#target?.cursor ?? null;
  }

  /** The seq of the last change that is known. */
  get head() {
    return Math.max(this.#target?.cursor.seq ?? 0, this.#details?.lastSeq ?? 0);
  }

  /** Those who type: user ids. */
  get typing() {
    return [...this.#typing.keys()];
  }

  /** Up to where one has read. */
  get readSeq() {
    return Math.max(this.#members.ownRead, this.#read);
  }

  /**
   * The newest message, shown or not; null when there is none.
   * @returns {Message | null}
   */
  get lastMessage() {
    const newest = this.messages.at(-1);
    const listed = this.#details?.lastMessage;
    if (newest && (!listed || newest.seq === 0 || newest.seq >= listed.seq)) return newest;
    return listed ? this.#snapshot(listed) : null;
  }

  /** How many messages of others one has not read. Of replies in threads that one does not follow those that mention one. */
  get unreadCount() {
    /** @type {Map<string, boolean>} */
    const followed = new Map();
    const isFollowed = (/** @type {string} */ id) => followed.get(id) ?? (followed.set(id, this.isFollowing(id)), followed.get(id) ?? false);
    return this.#count((wire) => isMain(wire) || isMention(wire, this.#host.me) || isFollowed(wire.threadId ?? ""), this.#details?.unreadCount ?? 0);
  }

  /** How many messages that one has not read mention one, by name or as one of all. */
  get mentionCount() {
    return this.#count((wire) => isMention(wire, this.#host.me), this.#details?.mentionCount ?? 0);
  }

  /**
   * Of what is loaded, if that is all since one has read; else what the server has counted, and what came since.
   * @param {(wire: WireMessage) => boolean} isCounted
   * @param {number} listed
   */
  #count(isCounted, listed) {
    const { readSeq } = this;
    const messages = this.#shown?.messages ?? [];
    const base = this.#details;
    const isCovered = this.#isReadCovered;
    const from = isCovered || !base ? Math.max(readSeq, 0) : Math.max(base.lastSeq, readSeq);
    let count = isCovered || !base || readSeq >= base.lastSeq ? 0 : listed;
    for (let index = messages.length - 1; index >= 0 && index >= messages.length - COUNTED; index--) {
      const message = /** @type {WireMessage} */ (messages[index]);
      if (message.seq <= from) break;
      if (message.senderId !== this.#host.me && !message.deletedAt && isCounted(message)) count++;
    }
    return count;
  }

  /**
   * The messages that are loaded: all from the first of them on, by `seq`, each once; then one's own that are on their
   * way. Replies that are in their threads only are left out (`replies`). The same array until something changes.
   * @returns {readonly Message[]}
   */
  get messages() {
    return (this.#messages ??= this.allMessages.every(isMain) ? this.allMessages : Object.freeze(this.allMessages.filter(isMain)));
  }

  /** The same with all replies. */
  get allMessages() {
    return (this.#all ??= this.#compose());
  }

  /**
   * The replies in a thread that are loaded, and one's own that are on their way.
   * @param {string} rootId
   */
  replies(rootId) {
    return this.allMessages.filter(({ threadId }) => threadId === rootId);
  }

  /**
   * Whether one follows a thread: as was said of it last, and what has come since; else as far as it is loaded. The
   * server is asked where it has not said so on this connection: see the event `thread`.
   * @param {string} rootId
   */
  isFollowing(rootId) {
    const { me } = this.#host;
    if (!this.#heard.has(rootId)) void this.#askThread(rootId);
    const state = this.#threads.get(rootId);
    if (state?.isFollowing) return true;
    const wires = this.#shown?.messages ?? [];
    const later = wires.filter(({ threadId, seq }) => threadId === rootId && seq > (state?.lastReplySeq ?? 0));
    const concerns = (/** @type {WireMessage} */ { senderId, mentions }) => senderId === me || (mentions ?? []).includes(me);
    if (later.some(concerns)) return true;
    const root = this.#shown?.get(rootId);
    return Boolean((!state || (!state.version && !state.lastReplySeq)) && later.length && root && concerns(root));
  }

  // -- reading ------------------------------------------------------------------------------------

  /**
   * Load the page before the messages that are there. Returns how many have come; with none, and `isComplete`, there are
   * no more.
   * @param {{limit?: number, signal?: AbortSignal}} [options]
   * @returns {Promise<number>}
   */
  async loadOlder({ limit = 50, signal } = {}) {
    if (this.#members.list.length < Math.min(this.#members.count, 100)) void this.refresh(); // lists name the first 20
    for (;;) {
      await this.#untilAttached(signal);
      const timeline = /** @type {Timeline} */ (this.#shown);
      if (timeline.isComplete) return 0;
      const count = await this.#load(timeline, limit, signal);
      if (timeline !== this.#shown) continue; // it was read anew meanwhile
      this.#changed();
      if (count || timeline.isComplete) return count;
    }
  }

  /**
   * Load older messages until this one is there, to jump to it. Returns it, or null when it is not there to be loaded.
   * @param {string} messageId
   * @param {{signal?: AbortSignal}} [options]
   * @returns {Promise<Message | null>}
   */
  async loadTo(messageId, { signal } = {}) {
    for (;;) {
      const found = this.allMessages.find(({ id }) => id === messageId);
      if (found || this.isComplete) return found ?? null;
      await this.loadOlder({ limit: PAGE, signal });
    }
  }

  /**
   * A page of the history with all replies, which does not become part of `messages`: newest first before a seq, oldest
   * first after one.
   * @param {{before?: number, after?: number, limit?: number, signal?: AbortSignal}} [options]
   * @returns {Promise<{messages: Message[], next: number | null}>} `next` is the next `before`, or `after`
   */
  async page({ before, after, limit = 50, signal } = {}) {
    const { items, next } = await this.#page({ before, after, limit }, signal);
    const messages = items.map((/** @type {WireMessage} */ wire) => this.#snapshot(wire));
    return { messages, next: next === null ? null : Number(next) };
  }

  /**
   * Load the members that are not known yet.
   * @param {{signal?: AbortSignal}} [options]
   */
  async loadMembers({ signal } = {}) {
    let round, members;
    do {
      round = this.#round;
      members = await this.#host.rest.all(`${this.#path}/members`, { signal });
    } while (round !== this.#round); // they may be of another history
    this.#members.replace(members, members.length);
    this.#changed();
    return this.members;
  }

  /**
   * What is pinned, the last one to be pinned first: read from the server, also what is not loaded.
   * @param {{signal?: AbortSignal}} [options]
   * @returns {Promise<Message[]>}
   */
  async pins({ signal } = {}) {
    const found = await this.#host.rest.all(`${this.#path}/pins`, { signal });
    return found.map((wire) => this.#snapshot(wire));
  }

  /**
   * The newest replies in a thread, oldest first: read from the server, also what is not loaded.
   * @param {string} rootId
   * @param {{limit?: number, signal?: AbortSignal}} [options] at most 200
   * @returns {Promise<Message[]>}
   */
  async readReplies(rootId, { limit = 50, signal } = {}) {
    const { messages } = await this.pageReplies(rootId, { limit, signal });
    return messages.reverse();
  }

  /**
   * A page of the replies in a thread, newest first before a seq; it does not become part of `replies`.
   * @param {string} rootId
   * @param {{before?: number | null, limit?: number, signal?: AbortSignal | undefined}} [options] at most 200
   * @returns {Promise<{messages: Message[], next: number | null}>} `next` is the next `before`
   */
  async pageReplies(rootId, { before = null, limit = 50, signal } = {}) {
    const { items, next } = await this.#host.rest.get(`/api/messages/${rootId}/replies`, { query: { before, limit }, signal });
    const messages = items.map((/** @type {WireMessage} */ wire) => this.#snapshot(wire));
    return { messages, next: next === null ? null : Number(next) };
  }

  // -- writing ------------------------------------------------------------------------------------

  /**
   * Send a message. It is in `messages` at once, and is sent as soon as that is possible, whatever happens to the
   * connection, or to this page if there is a store. `whenSent` of what is returned waits for it.
   * @param {string} content
   * @param {SendOptions} [options]
   * @returns {Message}
   */
  send(content, options = {}) {
    const { type = "Text", fileId, replyToId, mentions = [], mentionAll = false, threadId, alsoInConversation = false, clientMessageId = crypto.randomUUID() } = options;
    const entry = this.#host.outbox.add({
      conversationId: this.id,
      clientMessageId,
      content,
      type,
      fileId: fileId ?? null,
      replyToId: replyToId ?? null,
      mentions,
      mentionAll,
      threadId: threadId ?? null,
      alsoInConversation,
    });
    this.stopTyping();
    this.#changed();
    return this.#pending(entry);
  }

  /**
   * Say that one has read everything up to `seq`: of a message, or all that is there. Said as soon as it can be. While
   * the conversation is read anew it is passed over: what is shown is not what is there.
   * @param {number} [seq]
   */
  markRead(seq = this.#shown?.cursor.seq ?? 0) {
    seq = Math.min(seq, this.cursor?.seq ?? this.head);
    if (this.#next || seq <= this.readSeq) return;
    this.#read = seq;
    this.#members.receipt(this.#host.me, "Read", seq);
    this.#changed();
    void this.#sayRead();
  }

  /**
   * Say that one has read the replies in a thread up to `seq`; all there are when it is left out.
   * @param {string} rootId
   * @param {{seq?: number, signal?: AbortSignal}} [options]
   */
  markThreadRead(rootId, { seq = this.head, signal } = {}) {
    return this.#setThread("PUT", rootId, "read", { body: { seq }, signal });
  }

  /**
   * Follow a thread: its replies are unread from now on.
   * @param {string} rootId
   * @param {{signal?: AbortSignal}} [options]
   */
  followThread(rootId, { signal } = {}) {
    return this.#setThread("PUT", rootId, "following", { signal });
  }

  /**
   * Follow a thread no more, until one replies there, or is mentioned.
   * @param {string} rootId
   * @param {{signal?: AbortSignal}} [options]
   */
  unfollowThread(rootId, { signal } = {}) {
    return this.#setThread("DELETE", rootId, "following", { signal });
  }

  /** Say that one types; to be called at each key. */
  startTyping() {
    if (!this.#host.isLive() || Math.abs(Date.now() - this.#typedAt) < this.#host.settings.timing.typing) return;
    this.#typedAt = Date.now();
    this.#host.call("StartTyping", [this.id]).catch(() => {});
  }

  /** Say that one has stopped; sending says so, too. */
  stopTyping() {
    if (!this.#typedAt) return;
    this.#typedAt = 0;
    if (this.#host.isLive()) this.#host.call("StopTyping", [this.id]).catch(() => {});
  }

  /**
   * Give a group another name.
   * @param {string} name
   * @param {{signal?: AbortSignal}} [options]
   */
  rename(name, options = {}) {
    return this.update({ name }, options);
  }

  /**
   * Change a group. What is left out stays; null takes a description or a picture away.
   * @param {{name?: string, description?: string | null, avatarUrl?: string | null, posting?: "Everyone" | "Admins",
   *   slowModeSeconds?: number, isPublic?: boolean}} changes
   * @param {{signal?: AbortSignal}} [options]
   */
  async update(changes, { signal } = {}) {
    await this.#answer(this.#host.rest.request("PUT", this.#path, { body: changes, signal }));
  }

  /**
   * Make a link by which people join (`chat.join`). Its token is shown this once.
   * @param {{expiresInSeconds?: number, maxUses?: number}} [link]
   * @param {{signal?: AbortSignal}} [options]
   * @returns {Promise<JoinLink>}
   */
  createLink(link = {}, { signal } = {}) {
    const key = crypto.randomUUID();
    return this.#host.rest.request("POST", `${this.#path}/links`, { body: link, key, signal });
  }

  /**
   * @param {{cursor?: string | null, limit?: number, signal?: AbortSignal}} [options]
   * @returns {Promise<{items: JoinLink[], next: string | null}>}
   */
  links({ cursor = null, limit = 200, signal } = {}) {
    return this.#host.rest.get(`${this.#path}/links`, { query: { cursor, limit }, signal });
  }

  /**
   * @param {string} linkId
   * @param {{signal?: AbortSignal}} [options]
   */
  async revokeLink(linkId, { signal } = {}) {
    await this.#host.rest.request("DELETE", `${this.#path}/links/${linkId}`, { signal });
  }

  /**
   * Archive it, make it a favourite, or mute its notifications: for oneself, on all one's devices. What is left out
   * stays.
   * @param {{archived?: boolean, favourite?: boolean, mutedUntil?: Date | "forever" | null}} changes
   * @param {{signal?: AbortSignal}} [options]
   */
  async updateSettings({ archived, favourite, mutedUntil }, { signal } = {}) {
    const until = mutedUntil instanceof Date ? mutedUntil.toISOString() : mutedUntil && FOR_EVER;
    const notifications = mutedUntil === undefined ? undefined : { mutedUntil: until };
    const body = { archived, favourite, notifications };
    const round = this.#round;
    const settings = await this.#host.rest.request("PUT", `${this.#path}/settings`, { body, signal });
    if (round !== this.#round) void this.refresh(); // it may be of another history
    else if (this.#takeSettings(settings)) this.#emit("conversation", { conversation: this });
  }

  /**
   * Want no notifications: for ever, or until then.
   * @param {Date | null} [until]
   * @param {{signal?: AbortSignal}} [options]
   */
  mute(until = null, options = {}) {
    return this.updateSettings({ mutedUntil: until ?? "forever" }, options);
  }

  /** @param {{signal?: AbortSignal}} [options] */
  unmute(options = {}) {
    return this.updateSettings({ mutedUntil: null }, options);
  }

  /**
   * @param {string} userId
   * @param {{role?: "Owner" | "Admin" | "Member", signal?: AbortSignal}} [options]
   */
  async addMember(userId, { role = "Member", signal } = {}) {
    const key = crypto.randomUUID();
    await this.#answer(this.#host.rest.request("POST", `${this.#path}/members`, { body: { userId, role }, key, signal }));
  }

  /**
   * @param {string} userId
   * @param {{signal?: AbortSignal}} [options]
   */
  async removeMember(userId, { signal } = {}) {
    await this.#host.rest.request("DELETE", `${this.#path}/members/${userId}`, { signal });
  }

  /**
   * @param {string} userId
   * @param {"Owner" | "Admin" | "Member"} role
   * @param {{signal?: AbortSignal}} [options]
   */
  async setRole(userId, role, { signal } = {}) {
    await this.#answer(this.#host.rest.request("PUT", `${this.#path}/members/${userId}/role`, { body: { role }, signal }));
  }

  /**
   * A member sends, edits and reacts no more until then, or for good. For admins and owners of a group, and moderators of
   * the service. `reason` is for the audit log.
   * @param {string} userId
   * @param {{until?: Date | null, reason?: string, signal?: AbortSignal}} [options]
   */
  async muteMember(userId, { until, reason, signal } = {}) {
    await this.#host.rest.request("PUT", `${this.#path}/members/${userId}/mute`, { body: { until, reason }, signal });
  }

  /**
   * @param {string} userId
   * @param {{signal?: AbortSignal}} [options]
   */
  async unmuteMember(userId, { signal } = {}) {
    await this.#host.rest.request("DELETE", `${this.#path}/members/${userId}/mute`, { signal });
  }

  /**
   * Remove a user from a group, if they are a member; they do not come back before then, or never. For the same people.
   * @param {string} userId
   * @param {{until?: Date | null, reason?: string, signal?: AbortSignal}} [options]
   */
  async keepOut(userId, { until, reason, signal } = {}) {
    await this.#host.rest.request("PUT", `${this.#path}/bans/${userId}`, { body: { until, reason }, signal });
  }

  /**
   * @param {string} userId
   * @param {{signal?: AbortSignal}} [options]
   */
  async letIn(userId, { signal } = {}) {
    await this.#host.rest.request("DELETE", `${this.#path}/bans/${userId}`, { signal });
  }

  /**
   * Who is kept out, and until when.
   * @param {{cursor?: string | null, limit?: number, signal?: AbortSignal}} [options]
   * @returns {Promise<{items: {userId: string, until: string, createdBy: string, createdAt: string}[], next: string | null}>}
   */
  keptOut({ cursor = null, limit = 200, signal } = {}) {
    return this.#host.rest.get(`${this.#path}/bans`, { query: { cursor, limit }, signal });
  }

  /** @param {{signal?: AbortSignal}} [options] */
  leave(options = {}) {
    return this.removeMember(this.#host.me, options);
  }

  /**
   * Delete the conversation for all its members.
   * @param {{signal?: AbortSignal}} [options]
   */
  async delete({ signal } = {}) {
    await this.#host.rest.request("DELETE", this.#path, { signal });
  }

  /**
   * Who has received a message, and who has read it.
   * @param {string} messageId
   * @param {{cursor?: string | null, limit?: number, signal?: AbortSignal}} [options]
   * @returns {Promise<{items: {userId: string, status: "Delivered" | "Read"}[], next: string | null}>}
   */
  receipts(messageId, { cursor = null, limit = 200, signal } = {}) {
    return this.#host.rest.get(`/api/messages/${messageId}/receipts`, { query: { cursor, limit }, signal });
  }

  /**
   * Who has reacted to a message, to each emoji the first before the later ones; or to one emoji alone.
   * @param {string} messageId
   * @param {{emoji?: string, cursor?: string | null, limit?: number, signal?: AbortSignal}} [options]
   * @returns {Promise<{items: {userId: string, emoji: string, at: string}[], next: string | null}>}
   */
  reactors(messageId, { emoji, cursor = null, limit = 200, signal } = {}) {
    return this.#host.rest.get(`/api/messages/${messageId}/reactions`, { query: { emoji, cursor, limit }, signal });
  }

  // -- what comes from the server: for chat.js ----------------------------------------------------

  /**
   * Another one when the history may be another: what was asked for before may be of one that is lost.
   * @internal
   */
  get round() {
    return this.#round;
  }

  /** @internal */
  get isAttached() {
    return this.#shown !== null;
  }

  /**
   * The cursor to come back with.
   * @internal
   * @returns {Cursor | null}
   */
  rewind() {
    return this.#target?.rewind() ?? null;
  }

  /**
   * Where it was attached for the first time: older messages are to be loaded.
   * @internal
   * @param {Cursor} cursor
   * @param {number} floor
   */
  attach(cursor, floor) {
    if (!this.#shown) this.#shown = new Timeline(cursor, floor);
    this.#changed();
    this.dispatchEvent(new Event("attached"));
  }

  /**
   * @internal
   * @param {WireMessage} wire
   * @param {boolean} isNew
   */
  onMessage(wire, isNew) {
    if (!this.#shown) this.attach({ seq: 0 }, isNew ? wire.seq : wire.changedSeq);
    const timeline = /** @type {Timeline} */ (this.#target);
    const isFromHere = wire.senderId === this.#host.me && this.#isOnItsWay(wire);
    const before = timeline.cursor.seq;
    const news = timeline.apply(wire);
    if (wire.senderId === this.#host.me) {
      this.#host.outbox.confirm(wire);
      this.#members.receipt(wire.senderId, "Read", wire.seq);
    } else if (this.#typing.has(wire.senderId) && isNew) this.onTyping(wire.senderId, false);
    if (isNew && this.#host.settings.markDelivered && wire.senderId !== this.#host.me) this.#sayDelivered(wire.seq);
    this.#onLast(wire);
    if (wire.type === "System") this.#onSystem(wire);
    // What is unread but not loaded was counted by the server.
    if (wire.deletedAt && wire.seq < timeline.floor && wire.seq > this.readSeq) void this.refresh();
    this.#changed();
    const isOfOld = !isNew && wire.seq < timeline.floor && wire.changedSeq > before; // not loaded, but quoted, maybe
    if ((!news && !isOfOld) || (news === "new" && isFromHere)) return;
    const type = news === "new" ? "message" : "change";
    const detail = { conversation: this, message: this.#snapshot(wire) };
    if (this.#next) this.#deferred.push(() => this.#emit(type, detail));
    else this.#emit(type, detail);
  }

  /**
   * It could not be caught up with, and goes on from here; what is known of it may be lost.
   * @internal
   * @param {Cursor} cursor
   */
  onResync(cursor) {
    this.#round++;
    this.#members.forgetReceipts();
    this.#threads.clear();
    this.#heard.clear();
    this.#read = this.#delivered = this.#deliveredSaid = 0;
    if (this.#details) this.#details = { ...this.#details, lastSeq: Math.min(this.#details.lastSeq, cursor.seq), lastMessage: null };
    const next = new Timeline(cursor, cursor.seq + 1);
    if (!this.#shown) this.attach(cursor, cursor.seq + 1);
    if (this.#next || this.#shown?.messages.length || this.#host.outbox.lowestSent(this.id) < Infinity) return this.#readAnew(next);
    this.#generation++;
    this.#shown = next;
    this.#changed();
    this.#emit("reset", { conversation: this });
    this.#sendLostAgain(true);
    void this.refresh();
  }

  /**
   * It was caught up with: what one has sent before, on other connections, has come by now, or was lost.
   * @internal
   * @param {{unreadCount: number, mentionCount?: number | undefined, lastSeq: number, settingsVersion?: number | undefined}} counted
   */
  onCaughtUp({ unreadCount, mentionCount = 0, lastSeq, settingsVersion }) {
    this.#round++;
    this.#heard.clear();
    this.#members.renew();
    if (this.#details) this.#details = { ...this.#details, unreadCount, mentionCount, lastSeq };
    const settings = this.#details?.settings;
    if (this.#details && settings && settingsVersion !== undefined && settingsVersion !== settings.version) {
      // Whatever the answer is counts, also a lower version: what one had set was lost, or was of an earlier membership.
      const version = Math.min(settings.version, settingsVersion);
      this.#details = { ...this.#details, settings: { ...settings, version } };
      void this.refresh();
    }
    const timeline = this.#target;
    if (timeline && !timeline.caughtUp()) this.#readAnew(new Timeline(timeline.cursor, timeline.cursor.seq + 1));
    if (!this.#next) this.#sendLostAgain(false);
    this.#changed();
  }

  /**
   * There is a connection: say what could not be said.
   * @internal
   */
  resume() {
    if (this.#read > 0) void this.#sayRead();
    this.#deliveredSaid = 0;
    if (this.#delivered) this.#sayDelivered(this.#delivered);
  }

  /**
   * @internal
   * @param {WireConversation} details
   * @returns {boolean} whether they are not older than what has come
   */
  setDetails(details) {
    if (details.settings) this.#takeSettings(details.settings);
    const before = this.#details;
    // It is older than what has come. (What was only listed may be lost with the history.)
    if (before && details.lastSeq < before.lastSeq && details.lastSeq < (this.cursor?.seq ?? 0)) return false;
    this.#details = { ...details, settings: before?.settings ?? details.settings };
    this.#members.replace(details.members, details.memberCount);
    for (const emit of this.#unheard.splice(0)) emit();
    this.#changed();
    this.dispatchEvent(new Event("detailed"));
    return true;
  }

  /**
   * @internal
   * @param {WireConversation} details
   * @returns {boolean}
   */
  onDetails(details) {
    const isTaken = this.setDetails(details);
    this.#emit("conversation", { conversation: this });
    return isTaken;
  }

  /**
   * What a thread is to the user, unless something later has come on this connection. What was said on one before may
   * be of a history that is lost.
   * @internal
   * @param {ThreadState} state
   */
  onThread(state) {
    const known = this.#threads.get(state.threadId);
    const { version, lastReplySeq } = known ?? { version: -1, lastReplySeq: 0 };
    const isSame = state.version === version && state.lastReplySeq === lastReplySeq && state.isFollowing === known?.isFollowing;
    const isOlder = state.version < version || (state.version === version && state.lastReplySeq <= lastReplySeq);
    if (isSame || (isOlder && this.#heard.has(state.threadId))) return void this.#heard.add(state.threadId);
    this.#heard.add(state.threadId);
    this.#threads.set(state.threadId, state);
    this.#changed();
    this.#emit("thread", { conversation: this, thread: state });
  }

  /**
   * @internal
   * @param {{userId: string, status: "Delivered" | "Read", seq: number, at: string}} update
   */
  onReceipt({ userId, status, seq, at }) {
    if (!this.#members.receipt(userId, status, seq) && userId !== this.#host.me) return;
    if (userId === this.#host.me && status === "Read" && !this.#isReadCovered) void this.refresh();
    this.#changed();
    this.#emit("receipt", { conversation: this, userId, status, seq, at });
  }

  /**
   * @internal
   * @param {string} userId
   * @param {boolean} isTyping
   */
  onTyping(userId, isTyping) {
    clearTimeout(this.#typing.get(userId));
    const was = this.#typing.delete(userId);
    if (isTyping) this.#typing.set(userId, setTimeout(() => this.onTyping(userId, false), TYPING_ENDS));
    if (was === isTyping) return;
    this.#update();
    this.#emit("typing", { conversation: this, userId, isTyping });
  }

  /**
   * @internal
   * @param {string} reason
   */
  onRemoved(reason) {
    if (this.#isGone) return;
    this.#isGone = true;
    this.stop();
    this.#host.persistence.soon(keyOf.conversation(this.id), () => null);
    this.#host.outbox.drop(this.id);
    this.#emit("removed", { conversation: this, reason });
    this.dispatchEvent(new Event("over"));
  }

  /**
   * @internal
   * @param {Entry} entry
   */
  onSent(entry) {
    const wire = /** @type {WireMessage} */ (entry.answer);
    const isBelow = (this.#target?.floor ?? 0) > wire.seq;
    if (this.#target?.get(wire.id) || (isBelow && !this.#next)) this.#host.outbox.confirm(wire);
    this.#changed();
    this.#emit("sent", { conversation: this, message: this.#snapshot(wire) });
  }

  /**
   * @internal
   * @param {Entry} entry
   * @param {ParleyError} error
   */
  onFailed(entry, error) {
    this.#changed();
    this.#emit("failed", { conversation: this, message: this.#pending(entry), error });
  }

  /**
   * The messages on their way have changed.
   * @internal
   */
  onOutbox() {
    this.#changed();
  }

  /** @internal */
  stop() {
    this.#generation++;
    clearTimeout(this.#deliveredTimer);
    for (const timer of this.#typing.values()) clearTimeout(timer);
    this.#typing.clear();
  }

  /**
   * Read name, members and receipts once more, until that succeeds. Does not raise.
   * @internal
   */
  async refresh() {
    this.#isRefreshWanted = true;
    if (this.#isRefreshing) return;
    this.#isRefreshing = true;
    const { life, settings, onError } = this.#host;
    const pauses = new Backoff(settings.timing);
    let attempts = 0;
    while (this.#isRefreshWanted && !life.aborted && !this.#isGone) {
      this.#isRefreshWanted = false;
      const round = this.#round;
      try {
        const details = await this.#host.rest.get(this.#path, { signal: life, attempts: 1 });
        if (round === this.#round) {
          if (this.onDetails(details) || ++attempts === OVERTAKEN) continue;
          this.#isRefreshWanted = true;
          await pauses.pass(life);
        } else this.#isRefreshWanted = true; // it may be of another history
      } catch (error) {
        const known = asParleyError(error);
        if (known.isPassing) {
          this.#isRefreshWanted = true;
          await pauses.pass(life, known.retryAfterMs);
        } else if (!life.aborted && known.code !== "not_found") onError(known);
      }
    }
    this.#isRefreshing = false;
  }

  /**
   * Take what one has set, unless something later has come.
   * @param {ConversationSettings} settings
   * @returns {boolean} whether it was taken
   */
  #takeSettings(settings) {
    if (!this.#details || settings.version < (this.#details.settings?.version ?? 0)) return false;
    this.#details = { ...this.#details, settings };
    this.#changed();
    return true;
  }

  /**
   * @param {string} method
   * @param {string} rootId
   * @param {string} what
   * @param {{body?: object, signal?: AbortSignal | undefined}} options
   * @returns {Promise<ThreadState>}
   */
  async #setThread(method, rootId, what, options) {
    const round = this.#round;
    const state = await this.#host.rest.request(method, `/api/threads/${rootId}/${what}`, options);
    if (round === this.#round) this.onThread(state);
    else void this.#askThread(rootId); // it may be of another history
    return state;
  }

  /**
   * Ask what threads are to the user, one after the other, until that succeeds.
   * @param {string} rootId
   */
  async #askThread(rootId) {
    this.#asked.add(rootId);
    if (this.#isAsking) return;
    this.#isAsking = true;
    const { life, settings } = this.#host;
    const pauses = new Backoff(settings.timing);
    while (this.#asked.size && !life.aborted && !this.#isGone) {
      const [id] = this.#asked;
      const round = this.#round;
      try {
        const { root, ...state } = await this.#host.rest.get(`/api/threads/${id}`, { signal: life, attempts: 1 });
        if (round !== this.#round) continue; // it may be of another history
        this.onThread(state);
        this.#asked.delete(id);
      } catch (error) {
        const known = asParleyError(error);
        if (known.isPassing) await pauses.pass(life, known.retryAfterMs);
        else {
          this.#asked.delete(id);
          if (!this.#heard.has(id) && this.#threads.delete(id)) this.#changed();
          this.#heard.add(id);
        }
      }
    }
    this.#isAsking = false;
  }

  /** @param {Promise<WireConversation>} details the answer to a request */
  async #answer(details) {
    const round = this.#round;
    const known = await details;
    if (round !== this.#round || !this.setDetails(known)) void this.refresh();
  }

  /** @param {WireMessage} wire */
  #onLast(wire) {
    const last = this.#details?.lastMessage;
    if (this.#details && (!last || wire.seq > last.seq || (wire.id === last.id && wire.changedSeq > last.changedSeq)))
      this.#details = { ...this.#details, lastMessage: wire };
  }

  /** @param {WireMessage} wire */
  #onSystem({ content }) {
    try {
      const { event, userId } = JSON.parse(content);
      if (event === "memberRemoved") this.#members.remove(userId);
    } catch {
      // of a newer server
    }
  }

  // -- within -------------------------------------------------------------------------------------

  get #path() {
    return `/api/conversations/${this.id}`;
  }

  /** The timeline to which events belong. */
  get #target() {
    return this.#next ?? this.#shown;
  }

  /** Whether all that is unread is loaded, or known to be nothing. */
  get #isReadCovered() {
    const { readSeq } = this;
    const isKnown = this.#read > 0 || this.#members.ownRead >= 0;
    return isKnown && ((this.#shown?.floor ?? Infinity) <= readSeq + 1 || readSeq >= this.head);
  }

  /**
   * @internal
   * @param {string} clientMessageId
   * @returns {WireMessage | null | undefined} undefined while the history is read anew
   */
  findOwn(clientMessageId) {
    if (this.#next) return undefined;
    return this.#shown?.messages.find((wire) => wire.clientMessageId === clientMessageId && wire.senderId === this.#host.me) ?? null;
  }

  /** @param {WireMessage} wire */
  #isOnItsWay({ clientMessageId }) {
    return this.#host.outbox.of(this.id).some(({ draft }) => draft.clientMessageId === clientMessageId);
  }

  #compose() {
    const { reached } = this.#members;
    const shown = (this.#shown?.messages ?? []).map((wire) => this.#snapshot(wire, reached));
    const pending = this.#host.outbox.of(this.id).map((entry) => this.#pending(entry));
    const sent = pending.filter(({ seq }) => seq > 0);
    const known = [...shown, ...sent];
    if (sent.length) known.sort((one, other) => one.seq - other.seq); // others' may have come before one's own events
    // Until it is noticed that the history went back, what was sent again may be there twice.
    const keys = new Set();
    const isFirst = (/** @type {Message} */ { isOwn, key }) => !isOwn || (!keys.has(key) && keys.add(key));
    return Object.freeze([...known, ...pending.filter(({ seq }) => seq === 0)].filter(isFirst));
  }

  /**
   * @param {WireMessage} wire
   * @param {{delivered: number, read: number}} [reached]
   * @returns {Message}
   */
  #snapshot(wire, reached = this.#members.reached) {
    /** @type {import("./message.js").Status} */
    let status = wire.status === "Read" ? "read" : wire.status === "Delivered" ? "delivered" : "sent";
    if (status !== "read" && wire.senderId === this.#host.me) {
      if (reached.read >= wire.seq) status = "read";
      else if (reached.delivered >= wire.seq) status = "delivered";
    }
    const known = this.#snapshots.get(wire.id);
    if (known?.wire === wire && known.message.status === status) return known.message;
    const message = new Message(wire, status, this.#host.me, this.#actions);
    if (this.#shown?.get(wire.id) === wire) this.#snapshots.set(wire.id, { wire, message });
    return message;
  }

  /**
   * @param {Entry} entry
   * @returns {Message}
   */
  #pending({ draft, answer }) {
    if (answer) return this.#snapshot(answer);
    const error = draft.error && errorOf(draft);
    return new Message(
      {
        ...draft,
        id: "",
        seq: 0,
        changedSeq: 0,
        senderId: this.#host.me,
        type: /** @type {WireMessage["type"]} */ (draft.type),
      },
      error ? "failed" : "pending",
      this.#host.me,
      this.#actions,
      error,
    );
  }

  /**
   * @template Result
   * @param {Message} message
   * @param {(entry: Entry) => Result} use
   * @returns {Result | undefined}
   */
  #withEntry({ clientMessageId }, use) {
    const entry = this.#host.outbox.of(this.id).find(({ draft }) => draft.clientMessageId === clientMessageId);
    return entry && use(entry);
  }

  /** @param {Message} message */
  async #whenSent(message) {
    const wire = await this.#withEntry(message, (entry) => this.#host.outbox.whenSent(entry));
    return wire ? this.#snapshot(wire) : (this.allMessages.find(({ key }) => key === message.key) ?? message);
  }

  /**
   * @param {Message} message
   * @param {import("./message.js").Edit} change
   * @param {AbortSignal} [signal]
   */
  async #edit({ id }, change, signal) {
    requireSent(id);
    // Shown when its event comes: the answer may be of a history that is lost.
    await this.#host.rest.request("PUT", `/api/messages/${id}`, { body: change, signal });
  }

  /**
   * @param {string} method
   * @param {Message} message
   * @param {string} emoji
   * @param {AbortSignal} [signal]
   */
  async #react(method, { id }, emoji, signal) {
    requireSent(id);
    // Shown when its event comes, as an edit is.
    await this.#host.rest.request(method, `/api/messages/${id}/reactions/${encodeURIComponent(emoji)}`, { signal });
  }

  /**
   * @param {Message} message
   * @param {boolean} isPinned
   * @param {AbortSignal} [signal]
   */
  async #pin({ id }, isPinned, signal) {
    requireSent(id);
    // Shown when its event comes, as an edit is.
    await this.#host.rest.request(isPinned ? "PUT" : "DELETE", `/api/messages/${id}/pin`, { signal });
  }

  /**
   * @param {Message} message
   * @param {AbortSignal} [signal]
   */
  async #delete({ id }, signal) {
    requireSent(id);
    try {
      await this.#host.rest.request("DELETE", `/api/messages/${id}`, { signal });
    } catch (error) {
      if (asParleyError(error).code !== "gone") throw error; // it is what was wanted
    }
  }

  /**
   * @param {{before?: number | undefined, after?: number | undefined, limit: number}} query
   * @param {AbortSignal} [signal]
   * @returns {Promise<{items: WireMessage[], next: string | null}>}
   */
  #page(query, signal) {
    return this.#host.rest.get("/api/messages", { query: { conversationId: this.id, ...query, replies: "true" }, signal });
  }

  /**
   * @param {Timeline} timeline
   * @param {number} limit
   * @param {AbortSignal} [signal]
   */
  async #load(timeline, limit, signal) {
    return timeline.loadOlder(async (before) => {
      const page = await this.#page({ before, limit }, signal);
      for (const wire of page.items) if (wire.senderId === this.#host.me) this.#host.outbox.confirm(wire);
      return page;
    });
  }

  /**
   * Where no event has come yet the list begins at the head that the details have: what follows the change that made
   * one a member comes by itself.
   * @param {AbortSignal} [signal]
   */
  async #untilAttached(signal) {
    while (!this.#shown) {
      if (this.#details && !this.#isGone && !this.#host.isCatchingUp()) {
        const { lastSeq: seq, lastMessage: last } = this.#details;
        this.attach(last?.changedSeq === seq ? { seq, messageId: last.id } : { seq }, seq + 1);
        return;
      }
      if (signal?.aborted) throw abortedBy(signal);
      if (this.#isGone) throw new ParleyError("not_found", "The conversation is gone.");
      if (this.#host.life.aborted) throw new ParleyError("closed", "The chat is closed.");
      await new Promise((resolve) => {
        for (const type of ["attached", "detailed", "over"]) this.addEventListener(type, resolve, { once: true });
        signal?.addEventListener("abort", resolve, { once: true });
      });
    }
  }

  /** @param {Timeline} next */
  #readAnew(next) {
    this.#next = next;
    this.#deferred = [];
    this.#changed();
    void this.#readUntilDone(++this.#generation);
  }

  /** @param {number} generation */
  async #readUntilDone(generation) {
    const { timing } = this.#host.settings;
    const { life } = this.#host;
    const pauses = new Backoff(timing);
    const isWanted = () => generation === this.#generation && !life.aborted;
    const most = (this.#shown?.messages.length ?? 0) + IN_ADDITION;
    const lowest = Math.min(this.#shown?.floor ?? 1, this.#host.outbox.lowestSent(this.id));
    while (isWanted()) {
      const next = /** @type {Timeline} */ (this.#next);
      try {
        while (isWanted() && !next.isComplete && next.floor > lowest && next.messages.length < most)
          await this.#load(next, PAGE, life);
        if (isWanted()) return this.#show(next);
      } catch (error) {
        const known = asParleyError(error);
        if (!isWanted()) return;
        if (known.code === "not_found") return this.#host.forget(this, "gone");
        if (!known.isPassing) this.#host.onError(known);
        await pauses.pass(life, known.retryAfterMs);
      }
    }
  }

  /** @param {Timeline} next */
  #show(next) {
    this.#shown = next;
    this.#next = null;
    this.#snapshots.clear();
    this.#sendLostAgain(true);
    if (this.#host.settings.markDelivered) this.#sayDelivered(next.cursor.seq);
    this.#changed();
    this.#emit("reset", { conversation: this });
    for (const emit of this.#deferred.splice(0)) emit();
    void this.refresh();
  }

  /** @param {boolean} all */
  #sendLostAgain(all) {
    const timeline = /** @type {Timeline} */ (this.#shown);
    const ids = new Set(timeline.messages.map(({ clientMessageId, senderId }) => (senderId === this.#host.me ? clientMessageId : null)));
    this.#host.outbox.sendLostAgain(this.id, (id, clientMessageId) => Boolean(timeline.get(id)) || ids.has(clientMessageId), { all });
  }

  async #sayRead() {
    if (this.#isReading || !this.#host.isLive()) return;
    this.#isReading = true;
    const { life, settings } = this.#host;
    const pauses = new Backoff(settings.timing);
    while (this.#read > 0 && this.#host.isLive()) {
      const [seq, round] = [this.#read, this.#round];
      const settle = () => {
        if (seq === this.#read && round === this.#round) this.#read = 0; // else there is more, or it was of another history
      };
      try {
        await this.#host.call("MarkRead", [this.id, seq]);
        settle();
      } catch (error) {
        const known = asParleyError(error);
        if (!known.isPassing) settle(); // it is none of what can be read
        else await pauses.pass(life, known.retryAfterMs);
      }
    }
    this.#isReading = false;
    if (this.#host.isLive() && !this.#isReadCovered) void this.refresh();
  }

  /** @param {number} seq */
  #sayDelivered(seq) {
    this.#delivered = Math.max(this.#delivered, seq);
    this.#deliveredTimer ??= setTimeout(() => {
      this.#deliveredTimer = undefined;
      if (!this.#host.isLive() || this.#delivered <= this.#deliveredSaid || this.#delivered <= this.readSeq) return;
      this.#deliveredSaid = this.#delivered;
      this.#host.call("MarkDelivered", [this.id, this.#deliveredSaid]).catch(() => {});
    }, this.#host.settings.timing.delivered);
  }

  /** What is shown has changed, and is written to the store. */
  #changed() {
    this.#messages = this.#all = null;
    this.#update();
    if (!this.#isGone) this.#host.persistence.soon(keyOf.conversation(this.id), () => this.#kept());
  }

  #update() {
    if (this.#isUpdating) return;
    this.#isUpdating = true;
    queueMicrotask(() => {
      this.#isUpdating = false;
      this.#emit("update", { conversation: this });
    });
  }

  /** @returns {Kept | null} */
  #kept() {
    if (this.#isGone || !this.#details) return null; // what is unheard is to be heard of by the next page
    const timeline = this.#shown?.snapshot(this.#host.settings.keep) ?? null;
    const details = { ...this.#details, members: this.members.slice(0, 100) };
    if (timeline && this.#next) timeline.cursor = this.#next.snapshot(0).cursor;
    return { details, timeline, isStale: this.#next !== null, read: this.#read };
  }

  /**
   * @template {keyof ConversationEvents} Type
   * @param {Type} type
   * @param {ConversationEvents[Type]} detail
   */
  #emit(type, detail) {
    if (!this.#details && !["conversation", "update", "removed"].includes(type)) {
      this.#unheard.push(() => this.#emit(type, detail));
      return;
    }
    this.emit(type, detail);
    this.#host.announce(type, detail);
  }
}

/** @param {string} id */
function requireSent(id) {
  if (!id) throw new ParleyError("not_found", "The message is not sent yet.");
}
