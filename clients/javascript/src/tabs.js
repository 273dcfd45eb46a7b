/**
 * Several tabs with one store: each sends its own messages, and those of a tab that is gone are taken over by one of
 * the others. With Web Locks a tab is known to be gone; without them every tab sends what it finds, which is safe, as
 * the server takes each `clientMessageId` once.
 * @module
 */

export class Tabs {
  #scope;
  #locks;
  #life;
  /** @type {Set<string>} */
  #watched = new Set();

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
    const untilTheEnd = () => new Promise((resolve) => this.#life.addEventListener("abort", resolve, { once: true }));
    locks.request(this.#nameOf(this.id), untilTheEnd).catch(() => {});
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
