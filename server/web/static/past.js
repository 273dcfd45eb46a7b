/**
 * An old part of a conversation, far from what is loaded of it: what is around one message, and the pages above and below
 * that were loaded since. Owns which messages these are, and that each is in its last state. When it has reached what the
 * conversation has, both are one list, which goes on to the newest.
 * @module
 */
import { isMain } from "./client/timeline.js";

export class Past {
  #conversation;
  #own = []; // by seq, without a gap
  #older = null; // where the page above begins; null when there is none
  #newer = null; // where the page below begins; null when the conversation has what follows
  #late = new Map(); // what has changed while pages are on their way
  #loading = 0;
  #stop = new AbortController();
  #joined = { of: null, own: null, messages: [] };

  constructor(conversation) {
    this.#conversation = conversation;
    conversation.on("change", ({ message }) => this.#onChange(message), { signal: this.#stop.signal });
  }

  /** What is around the message of this seq. Raises ParleyError when it cannot be read. */
  static async around(conversation, seq, limit) {
    const past = new Past(conversation);
    try {
      await past.#while(async () => {
        const [above, below] = await Promise.all([past.#page({ before: seq + 1, limit }), past.#page({ after: seq, limit })]);
        past.#own = past.#current([...above.messages.reverse(), ...below.messages]);
        past.#older = above.next;
        past.#goOn(below);
      });
      return past;
    } catch (error) {
      past.close();
      throw error;
    }
  }

  /** It is not shown any more. */
  close() {
    this.#stop.abort();
  }

  /** Whether there is nothing before what is here. */
  get isComplete() {
    return this.#older === null;
  }

  /** Whether it goes on to the newest message. */
  get isJoined() {
    return this.#newer === null;
  }

  /** By seq. The same array until something changes. */
  get messages() {
    if (!this.isJoined) return this.#own;
    const { messages } = this.#conversation;
    if (this.#joined.of !== messages || this.#joined.own !== this.#own) {
      const first = messages[0]?.seq || Infinity; // those on their way have none
      this.#joined = { of: messages, own: this.#own, messages: [...this.#own.filter(({ seq }) => seq < first), ...messages] };
    }
    return this.#joined.messages;
  }

  async loadOlder({ limit }) {
    if (this.#older === null) return;
    await this.#while(async () => {
      const { messages, next } = await this.#page({ before: this.#older, limit });
      this.#own = [...this.#current(messages.reverse()), ...this.#own];
      this.#older = next;
    });
  }

  async loadNewer({ limit }) {
    if (this.#newer === null) return;
    await this.#while(async () => {
      const page = await this.#page({ after: this.#newer, limit });
      this.#own = [...this.#own, ...this.#current(page.messages)];
      this.#goOn(page);
    });
  }

  #page(query) {
    return this.#conversation.page({ ...query, signal: this.#stop.signal });
  }

  /** The page below is the conversation's when it has the last of these, or there is none. */
  #goOn({ next }) {
    const last = this.#own.at(-1)?.seq ?? 0;
    this.#newer = last >= (this.#conversation.messages[0]?.seq || Infinity) ? null : next;
  }

  async #while(read) {
    this.#loading++;
    try {
      await read();
    } finally {
      if (--this.#loading === 0) this.#late.clear();
    }
  }

  /** An event may have come before the page that it was too late for. */
  #current(page) {
    return page.filter(isMain).map((message) => {
      const late = this.#late.get(message.id);
      return late && late.changedSeq > message.changedSeq ? late : message;
    });
  }

  #onChange(message) {
    if (this.#loading) this.#late.set(message.id, message);
    const at = this.#own.findIndex(({ id }) => id === message.id);
    if (at >= 0 && this.#own[at].changedSeq < message.changedSeq) this.#own = this.#own.with(at, message);
  }
}
