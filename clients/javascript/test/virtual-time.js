/**
 * Time that passes at once: timers of this process fire one after another, whenever nothing else is left to do. So tests
 * with pauses and limits are fast, and the machine's speed means nothing to them.
 */

const real = { setTimeout, setImmediate, Date, random: Math.random };

export class VirtualTime {
  #now = 1_800_000_000_000;
  #last = 0;
  #timers = new Map();

  get now() {
    return this.#now;
  }

  /** @param {() => number} [random] in place of Math.random, for the same jitter again */
  install(random) {
    globalThis.setTimeout = (call, ms = 0, ...args) => this.#add(call, ms, args, null);
    globalThis.setInterval = (call, ms = 0, ...args) => this.#add(call, ms, args, Math.max(ms, 1));
    globalThis.setImmediate = (call, ...args) => this.#add(call, 0, args, null);
    globalThis.clearTimeout = globalThis.clearInterval = globalThis.clearImmediate = (id) => this.#timers.delete(id);
    Date.now = () => this.#now;
    if (random) Math.random = random;
  }

  #add(call, ms, args, period) {
    const id = ++this.#last;
    this.#timers.set(id, { at: this.#now + (ms > 0 ? ms : 0), id, call, args, period });
    return id;
  }

  /** Let time pass until this promise is settled. */
  async run(promise) {
    let isDone = false;
    const done = () => (isDone = true);
    promise.then(done, done);
    for (;;) {
      for (let round = 0; round < 3 && !isDone; round++) await new Promise((resolve) => real.setImmediate(resolve));
      if (isDone) return promise;
      this.#fire();
    }
  }

  #fire() {
    let next = null;
    for (const timer of this.#timers.values())
      if (!next || timer.at < next.at || (timer.at === next.at && timer.id < next.id)) next = timer;
    if (!next) return;
    this.#now = Math.max(this.#now, next.at);
    if (next.period === null) this.#timers.delete(next.id);
    else next.at = this.#now + next.period;
    next.call(...next.args);
  }
}
