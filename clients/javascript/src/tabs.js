/**
 * Several tabs with one store: each sends its own messages, and those of a tab that is gone are taken over by one of
 * the others. With Web Locks a tab is known to be gone, and tabs make themselves known as they come; without
 * locks every tab sends what it finds, which is safe, as the server takes each `clientMessageId` once.
 * @module
 */

export class Tabs {
  #scope;
  #locks;
  #life;
  /** @type {Set<string>} */
  #watched = new Set();
  /** @type {Promise<void>} */
  #isHeld = Promise.resolve();

  /** This one. */
  id = crypto.randomUUID();

  /**
   * @param {string | undefined} scope what is shared
   * @param {AbortSignal} life
   */
  constructor(scope, life) {
    this.#scope = scope;
    this.#life = life;
    this.#locks = scope === undefined ? undefined : globalThis.navigator?.locks;
    if (this.#locks) this.#hold(this.#locks);
  }

  /** Whether it is known of other tabs if they are still there. */
  get areKnown() {
    return this.#locks !== undefined;
  }

  /** @param {LockManager} locks */
  #hold(locks) {
    this.#isHeld = new Promise((held) => {
      const untilTheEnd = () => {
        held();
        return new Promise((resolve) => this.#life.addEventListener("abort", resolve, { once: true }));
      };
      locks.request(this.#nameOf(this.id), untilTheEnd).catch(() => held());
    });
  }

  /**
   * Get to know the tabs that are there, and those that come later.
   * @param {(tab: string) => void} onTab
   */
  async meet(onTab) {
    await this.#isHeld; // else this one looks as if it were gone
    if (!this.#locks || this.#life.aborted || typeof BroadcastChannel === "undefined") return;
    const channel = new BroadcastChannel(`parley/${this.#scope}`);
    channel.onmessage = ({ data }) => {
      if (data?.isNew) channel.postMessage({ tab: this.id });
      if (typeof data?.tab === "string") onTab(data.tab);
    };
    channel.postMessage({ tab: this.id, isNew: true });
    this.#life.addEventListener("abort", () => channel.close(), { once: true });
  }

  /**
   * Call back when this tab is gone, in one tab at a time.
   * @param {string} tab
   * @param {() => Promise<void>} then
   */
  whenGone(tab, then) {
    if (tab === this.id || this.#watched.has(tab)) return;
    this.#watched.add(tab);
    this.#locks?.request(this.#nameOf(tab), { signal: this.#life }, then).catch(() => {});
  }

  /** @param {string} tab */
  #nameOf(tab) {
    return `parley/${this.#scope}/${tab}`;
  }
}
