/**
 * Waiting: pauses that end early, signals that follow others, and the growing pauses between attempts.
 * @module
 */
import { ParleyError, abortedBy } from "./errors.js";

const LONGEST = 3_600_000; // ms: what a proxy asks for may be anything, and longer timers overflow

/**
 * @param {number} ms an hour at most
 * @param {AbortSignal} [signal] ends it with the error `aborted`
 * @returns {Promise<void>}
 */
export function sleep(ms, signal) {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(abortedBy(signal));
    const stop = () => (clearTimeout(timer), reject(abortedBy(signal)));
    const timer = setTimeout(() => (signal?.removeEventListener("abort", stop), resolve()), Math.min(ms, LONGEST));
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

/**
 * What the application is asked for, or an error when that takes too long.
 * @template Result
 * @param {Promise<Result>} work
 * @param {number | null} ms
 * @param {AbortSignal} [signal]
 * @returns {Promise<Result>}
 */
export async function bounded(work, ms, signal) {
  const limit = linked(ms, signal);
  const over = new Promise((_, reject) => {
    const stop = () => reject(limit.isLate ? new ParleyError("timeout", "The application did not answer in time.") : abortedBy(signal));
    if (limit.signal.aborted) stop();
    limit.signal.addEventListener("abort", stop);
  });
  try {
    return await Promise.race([work, over]);
  } finally {
    limit.release();
  }
}

/** Pauses between attempts: each about twice as long as the one before, with full jitter. */
export class Backoff {
  #attempts = 0;

  /** @param {{minPause: number, maxPause: number}} timing ms */
  constructor({ minPause, maxPause }) {
    this.min = minPause;
    this.max = maxPause;
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

  /**
   * Wait for that long, or until it is of no use any more.
   * @param {AbortSignal} signal
   * @param {number} [atLeast]
   */
  async pass(signal, atLeast) {
    await sleep(this.next(atLeast), signal).catch(() => {});
  }
}
