/**
 * Events for applications: an `EventTarget` whose events have a `detail`, with typed listeners and async iterators.
 * @module
 */
import { abortedBy } from "./errors.js";

/** An event with the data that belongs to it. */
export class ChatEvent extends Event {
  /**
   * @param {string} type
   * @param {any} detail
   */
  constructor(type, detail) {
    super(type);
    this.detail = detail;
  }
}

/**
 * @template {Record<string, any>} Events
 */
export class Emitter extends EventTarget {
  /**
   * Call `listener` with the detail of each event of this type. Returns what takes the listener away again.
   * @template {keyof Events & string} Type
   * @param {Type} type
   * @param {(detail: Events[Type]) => void} listener
   * @param {{signal?: AbortSignal}} [options]
   * @returns {() => void}
   */
  on(type, listener, { signal } = {}) {
    const handle = (/** @type {Event} */ event) => listener(/** @type {ChatEvent} */ (event).detail);
    this.addEventListener(type, handle, signal ? { signal } : undefined);
    return () => this.removeEventListener(type, handle);
  }

  /**
   * Iterate over the details of the events of this type from now on. What the application has not taken is kept. Ends
   * when the chat is closed; an aborted `signal` raises `aborted`.
   * @template {keyof Events & string} Type
   * @param {Type} type
   * @param {{signal?: AbortSignal}} [options]
   * @returns {AsyncIterableIterator<Events[Type]>}
   */
  events(type, { signal } = {}) {
    /** @type {Events[Type][]} */
    const kept = [];
    let isOver = false;
    /** @type {(() => void) | null} */
    let wake = null;
    const signalled = () => (wake?.(), (wake = null));
    const stop = () => {
      isOver = true;
      off();
      this.removeEventListener("over", stop);
      signal?.removeEventListener("abort", signalled);
      signalled();
    };
    const off = this.on(type, (detail) => (kept.push(detail), signalled()));
    this.addEventListener("over", stop);
    signal?.addEventListener("abort", signalled);
    return {
      [Symbol.asyncIterator]() {
        return this;
      },
      async next() {
        for (;;) {
          if (signal?.aborted) {
            stop();
            throw abortedBy(signal);
          }
          if (kept.length) return { done: false, value: /** @type {Events[Type]} */ (kept.shift()) };
          if (isOver) return { done: true, value: undefined };
          await new Promise((resolve) => (wake = () => resolve(undefined)));
        }
      },
      async return() {
        stop();
        return { done: true, value: undefined };
      },
    };
  }

  /**
   * @template {keyof Events & string} Type
   * @param {Type} type
   * @param {Events[Type]} detail
   * @protected
   */
  emit(type, detail) {
    this.dispatchEvent(new ChatEvent(type, detail));
  }
}
