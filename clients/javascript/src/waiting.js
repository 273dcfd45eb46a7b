/**
 * Waiting: pauses that end early, signals that follow others, and the growing pauses between attempts.
 * @module
 */
import { abortedBy } from "./errors.js";

/**
 * @param {number} ms
 * @param {AbortSignal} [signal] ends it with the error `aborted`
 * @returns {Promise<void>}
 */
export function sleep(ms, signal) {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(abortedBy(signal));
    const stop = () => (clearTimeout(timer), reject(abortedBy(signal)));
    const timer = setTimeout(() => (signal?.removeEventListener("abort", stop), resolve()), ms);
    signal?.addEventListener("abort", stop, { once: true });
  });
}

/**
 * A signal that aborts with each of the others, or after a time. Call `release` when it is not needed any more.
 * @param {number | null} ms
 * @param {(AbortSignal | undefined)[]} signals
 */
export function linked(ms, ...signals) {
  const controller = new AbortController();
  let isLate = false;
  const abort = () => controller.abort();
  const timer = ms === null ? undefined : setTimeout(() => ((isLate = true), abort()), ms);
  for (const signal of signals) {
    if (signal?.aborted) abort();
    signal?.addEventListener("abort", abort);
  }
  return {
    signal: controller.signal,
    /** Whether the time was up. */
    get isLate() {
      return isLate;
    },
    release() {
      clearTimeout(timer);
      for (const signal of signals) signal?.removeEventListener("abort", abort);
    },
  };
}

/** Pauses between attempts: each about twice as long as the one before, with full jitter. */
export class Backoff {
  #attempts = 0;

  /**
   * @param {number} min ms
   * @param {number} max ms
   */
  constructor(min, max) {
    this.min = min;
    this.max = max;
  }

  reset() {
    this.#attempts = 0;
  }

  /**
   * @param {number} [atLeast] ms that the server has asked for
   * @returns {number} ms
   */
  next(atLeast = 0) {
    const longest = Math.min(this.max, this.min * 2 ** Math.min(this.#attempts++, 30));
    return atLeast + Math.random() * longest;
  }
}
