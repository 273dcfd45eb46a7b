/**
 * The members of one conversation and how far each has got: receipts only rise, until the history is read anew.
 * @module
 */

/**
 * @typedef {object} Member
 * @property {string} userId
 * @property {"Owner" | "Admin" | "Member"} role
 * @property {string} joinedAt
 * @property {number} deliveredSeq
 * @property {number} readSeq
 */

export class Members {
  /** @type {Map<string, Member>} */
  #byId = new Map();
  /** @type {Map<string, Member>} what has been said since `renew` */
  #heard = new Map();
  #me;
  count = 0;

  /** @param {string} me */
  constructor(me) {
    this.#me = me;
  }

  /** @returns {Member[]} */
  get list() {
    return [...this.#byId.values()];
  }

  /** Up to where one has read oneself; -1 when it is not known. */
  get ownRead() {
    return this.#byId.get(this.#me)?.readSeq ?? this.#ownRead;
  }
  #ownRead = -1;

  /**
   * Up to where all others have received, and read. 0 when not all of them are known.
   * @returns {{delivered: number, read: number}}
   */
  get reached() {
    let [delivered, read, others] = [Infinity, Infinity, 0];
    for (const { userId, deliveredSeq, readSeq } of this.#byId.values()) {
      if (userId === this.#me) continue;
      others++;
      delivered = Math.min(delivered, Math.max(deliveredSeq, readSeq));
      read = Math.min(read, readSeq);
    }
    return others > 0 && this.#byId.size >= this.count ? { delivered, read } : { delivered: 0, read: 0 };
  }

  /**
   * @param {Member[]} members
   * @param {number} count of all members, of whom these are the first
   */
  replace(members, count) {
    const before = this.#byId;
    this.count = count;
    this.#byId = new Map();
    for (const member of members) {
      const known = risen(member, this.#heard.get(member.userId));
      this.#byId.set(member.userId, known);
      this.#heard.set(member.userId, known);
    }
    // A list of the first members says nothing about the others.
    if (members.length < count) for (const [id, one] of before) if (!this.#byId.has(id)) this.#byId.set(id, one);
  }

  /** @param {string} userId */
  remove(userId) {
    this.#heard.delete(userId);
    if (this.#byId.delete(userId)) this.count--;
  }

  /**
   * Returns whether it is news.
   * @param {string} userId
   * @param {"Delivered" | "Read"} status
   * @param {number} seq
   */
  receipt(userId, status, seq) {
    if (userId === this.#me && status === "Read") this.#ownRead = Math.max(this.#ownRead, seq);
    const member = this.#byId.get(userId);
    /** @type {Member} */
    const one = member ?? { userId, role: "Member", joinedAt: "", deliveredSeq: -1, readSeq: -1 };
    const update = { ...one, deliveredSeq: seq, readSeq: status === "Read" ? seq : -1 };
    // Also of one who is not known yet: the list that is on its way may be older.
    this.#heard.set(userId, risen(update, this.#heard.get(userId)));
    if (!member) return false;
    const known = risen(update, member);
    if (known.deliveredSeq === member.deliveredSeq && known.readSeq === member.readSeq) return false;
    this.#byId.set(userId, known);
    return true;
  }

  /**
   * There is another connection: the history may have gone back meanwhile, and receipts with it. What is known is shown
   * until it is said anew.
   */
  renew() {
    this.#heard.clear();
  }

  /** Of the history that has gone back, nothing is known of how far anybody has got. */
  forgetReceipts() {
    this.#ownRead = -1;
    this.#heard.clear();
    for (const [id, member] of this.#byId) this.#byId.set(id, { ...member, deliveredSeq: -1, readSeq: -1 });
  }
}

/**
 * @param {Member} member
 * @param {Member | undefined} before
 */
function risen(member, before) {
  if (!before) return member;
  if (before.joinedAt && member.joinedAt && before.joinedAt !== member.joinedAt)
    return before.joinedAt < member.joinedAt ? member : before; // one who has come back meanwhile
  return {
    ...member,
    joinedAt: member.joinedAt || before.joinedAt,
    deliveredSeq: Math.max(member.deliveredSeq, before.deliveredSeq),
    readSeq: Math.max(member.readSeq, before.readSeq),
  };
}
