/**
 * The exact view of one conversation: the messages from some point on, all of them, each once, in its last state, and
 * the cursor that says up to which change that holds. Pure: events, pages and answers come in, nothing goes out.
 * @module
 */

/**
 * A message as the server says it (docs/hub.md, Objects).
 * @typedef {object} WireMessage
 * @property {string} id
 * @property {string} conversationId
 * @property {number} seq
 * @property {number} changedSeq
 * @property {string} senderId
 * @property {"Text" | "Image" | "File" | "Emoji" | "System"} type
 * @property {string} content
 * @property {FileInfo | null} [file]
 * @property {string | null} [replyToId]
 * @property {string | null} [clientMessageId]
 * @property {string} createdAt
 * @property {string | null} [editedAt]
 * @property {string | null} [deletedAt]
 * @property {"Sent" | "Delivered" | "Read"} status
 * @property {string | null} [changedAt]
 * @property {Reaction[]} [reactions]
 * @property {string | null} [pinnedAt]
 * @property {string | null} [pinnedBy]
 * @property {string[]} [mentions] user ids
 * @property {boolean} [mentionAll]
 * @property {string | null} [threadId] of a reply: the id of its root
 * @property {boolean} [alsoInConversation]
 * @property {ThreadSummary | null} [thread]
 *
 * @typedef {object} ThreadSummary what a root shows of the replies that are there
 * @property {number} replyCount
 * @property {string} lastReplyAt
 * @property {string[]} participantIds the first ten who have replied
 *
 * @typedef {object} Reaction one kind of reaction: how many users have put it there, and the first ten of them
 * @property {string} emoji
 * @property {number} count
 * @property {string[]} userIds
 *
 * @typedef {object} FileInfo
 * @property {string} id
 * @property {string} key
 * @property {string} url
 * @property {string} name
 * @property {number} size
 * @property {string} contentType
 * @property {number | null} [width]
 * @property {number | null} [height]
 *
 * @typedef {object} Cursor
 * @property {number} seq
 * @property {string | null} [messageId]
 * @property {string | null} [changedAt]
 *
 * @typedef {object} Snapshot what the store keeps
 * @property {Cursor} cursor
 * @property {number} floor
 * @property {WireMessage[]} messages
 * @property {string[]} [ahead] those of which a page has shown more than events
 */

const RANK = { Sent: 0, Delivered: 1, Read: 2 };

export class Timeline {
  /** @type {WireMessage[]} by rising seq */
  #messages = [];
  /** @type {Map<string, WireMessage>} */
  #byId = new Map();
  /** @type {Map<string, WireMessage>} what has changed below the floor while pages are on their way */
  #changedBelow = new Map();
  #loading = 0;
  #round = 0;
  /** @type {Map<string, number>} the changes, by message, that a page has shown and no event as yet */
  #ahead = new Map();
  #isReplayed = false;
  /** @type {Cursor | null} before what the replay left out first, as a later change hides it: until it is whole, more may be missing */
  #base = null;

  /**
   * @param {Cursor} cursor
   * @param {number} floor Every message with this seq or a higher one, up to the cursor, is here; or will be by events.
   */
  constructor(cursor, floor) {
    this.cursor = cursor;
    this.floor = floor;
  }

  /** @returns {readonly WireMessage[]} */
  get messages() {
    return this.#messages;
  }

  /** Whether there is nothing before what is here. */
  get isComplete() {
    return this.floor <= 1;
  }

  /** @param {string} id */
  get(id) {
    return this.#byId.get(id);
  }

  /**
   * A change that has come as an event. Only these move the cursor.
   * @param {WireMessage} message
   * @returns {"new" | "changed" | null} what it is to those who look
   */
  apply(message) {
    if (message.changedSeq <= this.cursor.seq) return this.merge(message); // it came twice
    if (this.#isReplayed && message.changedSeq > this.cursor.seq + 1) this.#base ??= this.cursor;
    const changedAt = message.changedAt ?? message.deletedAt ?? message.editedAt; // a server of before has no changedAt
    this.cursor = { seq: message.changedSeq, messageId: message.id, ...(changedAt ? { changedAt } : {}) };
    const ahead = this.#ahead.get(message.id);
    if (ahead !== undefined && ahead <= message.changedSeq) this.#ahead.delete(message.id);
    return this.merge(message);
  }

  /**
   * The state of a message, by an event, at whatever time.
   * @param {WireMessage} message
   * @returns {"new" | "changed" | null}
   */
  merge(message) {
    const known = this.#byId.get(message.id);
    if (known) {
      if (!isNewer(message, known)) return null;
      this.#byId.set(message.id, message);
      this.#messages[this.#indexOf(message.seq)] = message;
      return message.changedSeq > known.changedSeq || isOther(message, known) ? "changed" : null;
    }
    if (message.seq < this.floor) {
      const before = this.#changedBelow.get(message.id);
      if (this.#loading && (!before || isNewer(message, before))) this.#changedBelow.set(message.id, message);
      return null;
    }
    this.#insert(message);
    return "new";
  }

  /**
   * Go back to where everything was there, for another connection: what has come since is to come once more.
   * @returns {Cursor}
   */
  rewind() {
    const base = this.#base ?? this.cursor;
    for (const { id, changedSeq } of this.#messages) if (changedSeq > base.seq) this.#ahead.set(id, changedSeq);
    this.#base = null;
    this.#isReplayed = true;
    return (this.cursor = base);
  }

  /**
   * All events up to the head have come, by a cursor that the server has found in its history. Pages that were asked for
   * before may be of one that is lost.
   * @returns {boolean} whether what is here is known to be of this history; else it has to be read anew
   */
  caughtUp() {
    this.#round++;
    this.#base = null;
    this.#isReplayed = false;
    return this.#ahead.size === 0;
  }

  /**
   * Read the page before what is here.
   * @param {(before: number) => Promise<{items: WireMessage[], next: string | null}>} read newest first
   * @returns {Promise<number>} how many messages have come that the main history shows
   */
  async loadOlder(read) {
    const { floor } = this;
    this.#loading++;
    try {
      let round, seen, items, next;
      do {
        round = this.#round;
        seen = this.cursor.seq; // what has changed since may be of a history that is lost, though the cursor passes it
        ({ items, next } = await read(floor));
        if (this.floor !== floor) return 0; // another page was faster
      } while (round !== this.#round);
      const lowest = items.at(-1);
      this.floor = next !== null && lowest ? lowest.seq : 1;
      const added = items.filter((item) => item.seq < floor && !this.#byId.has(item.id)).reverse();
      const current = added.map((item) => {
        const changed = this.#changedBelow.get(item.id);
        this.#changedBelow.delete(item.id);
        if (item.changedSeq > Math.max(seen, changed?.changedSeq ?? 0)) this.#ahead.set(item.id, item.changedSeq);
        return changed && isNewer(changed, item) ? changed : item;
      });
      this.#messages = [...current, ...this.#messages];
      for (const item of current) this.#byId.set(item.id, item);
      return added.filter(isMain).length;
    } finally {
      if (--this.#loading === 0) this.#changedBelow.clear();
    }
  }

  /**
   * What the store keeps.
   * @param {number} most messages
   */
  snapshot(most) {
    const messages = this.#messages.slice(-most);
    const first = messages[0];
    const floor = messages.length < this.#messages.length && first ? first.seq : this.floor;
    const cursor = this.#base ?? this.cursor;
    const ahead = messages.flatMap(({ id, changedSeq }) => (this.#ahead.has(id) || changedSeq > cursor.seq ? id : []));
    return { cursor, floor: most > 0 ? floor : cursor.seq + 1, messages, ahead };
  }

  /** @param {Snapshot} snapshot */
  static from({ cursor, floor, messages, ahead = [] }) {
    const found = new Timeline(cursor, floor);
    for (const message of messages) found.merge(message);
    for (const id of ahead) found.#ahead.set(id, found.get(id)?.changedSeq ?? 0);
    return found;
  }

  /** @param {WireMessage} message */
  #insert(message) {
    this.#byId.set(message.id, message);
    const last = this.#messages.at(-1);
    if (!last || last.seq < message.seq) this.#messages.push(message);
    else this.#messages.splice(this.#indexOf(message.seq), 0, message);
  }

  /** @param {number} seq */
  #indexOf(seq) {
    let low = 0;
    let high = this.#messages.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (/** @type {WireMessage} */ (this.#messages[middle]).seq < seq) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

/**
 * Whether the main history shows it: it is no reply, or one that is in the conversation, too.
 * @param {Pick<WireMessage, "threadId" | "alsoInConversation">} message
 */
export function isMain({ threadId, alsoInConversation }) {
  return !threadId || alsoInConversation === true;
}

/**
 * @param {WireMessage} event
 * @param {WireMessage} known by a page, or by an event before. The same change of another history is older.
 */
function isNewer(event, known) {
  if (event.changedSeq !== known.changedSeq) return event.changedSeq > known.changedSeq;
  return isOther(event, known) || RANK[event.status] > RANK[known.status];
}

/**
 * @param {WireMessage} one
 * @param {WireMessage} other
 */
function isOther(one, other) {
  return ["content", "editedAt", "deletedAt", "changedAt"].some((name) => (/** @type {any} */ (one)[name] ?? null) !== (/** @type {any} */ (other)[name] ?? null));
}
