/**
 * The one error of this library, and the rules about its codes: how an error is read from the hub and from REST, and
 * which of them pass by themselves.
 * @module
 */

/**
 * @typedef {object} ErrorDetails
 * @property {number} [retryAfterMs] When to come again.
 * @property {Record<string, string>} [fields] What is wrong with which field.
 * @property {number} [status] The HTTP status.
 * @property {string} [until] When what forbids it is over; the last millisecond of the year 9999 is never.
 * @property {unknown} [cause]
 */

/** Codes of errors that say nothing about the request: the same request may succeed a moment later. */
const PASSING = new Set([
  "unavailable", "overloaded", "rate_limited", "internal", "draining", "timeout", "network", "storage_full",
]);

/** An error with a stable `code`: those of the server (docs/hub.md), and `closed`, `aborted`, `network` and `outcome_unknown`. */
export class ParleyError extends Error {
  /**
   * @param {string} code
   * @param {string} message
   * @param {ErrorDetails} [details]
   */
  constructor(code, message, { retryAfterMs, fields, status, until, cause } = {}) {
    super(message, cause === undefined ? undefined : { cause });
    this.name = "ParleyError";
    this.code = code;
    this.retryAfterMs = retryAfterMs;
    this.fields = fields;
    this.status = status;
    this.until = until;
  }

  /** Whether the same request may succeed later, as nothing is wrong with it. */
  get isPassing() {
    return PASSING.has(this.code);
  }
}

/**
 * @param {unknown} error
 * @param {string} [code] of what is no ParleyError
 * @returns {ParleyError}
 */
export function asParleyError(error, code = "network") {
  if (error instanceof ParleyError) return error;
  const isAbort = error instanceof Error && error.name === "AbortError";
  const message = error instanceof Error ? error.message : String(error);
  return new ParleyError(isAbort ? "aborted" : code, message || code, { cause: error });
}

/**
 * Read the error of a completion or of a Close: `code: sentence`, and more for programs in a second line.
 * @param {string} text
 */
export function errorOfHub(text) {
  const [line = "", detail = "{}"] = text.split("\n");
  const [, code = "internal", sentence = line] = /^([a-z_]+): (.*)$/.exec(line) ?? [];
  /** @type {ErrorDetails} */
  let known = {};
  try {
    known = JSON.parse(detail) ?? {};
  } catch {
    // the sentence says enough
  }
  return new ParleyError(code, sentence, { ...known, retryAfterMs: known.retryAfterMs ?? waitIn(code, sentence) });
}

/**
 * Read the problem document of an HTTP answer that is not good.
 * @param {Response} response
 */
export async function errorOfAnswer(response) {
  /** @type {any} */
  let problem = null;
  try {
    problem = await response.json();
  } catch {
    // a proxy's page, or the connection is lost: the status says enough
  }
  const { status } = response;
  const code = typeof problem?.code === "string" ? problem.code : codeOf(status);
  const sentence = String(problem?.detail ?? problem?.title ?? `The server answered ${status}.`);
  const header = Number(response.headers.get("Retry-After") || NaN) * 1000;
  const retryAfterMs = problem?.retryAfterMs ?? waitIn(code, sentence) ?? (header >= 0 ? header : undefined);
  return new ParleyError(code, sentence, { status, fields: problem?.fields ?? problem?.errors, retryAfterMs, until: problem?.until });
}

/** @param {AbortSignal} [signal] */
export function abortedBy(signal) {
  return new ParleyError("aborted", "The operation was aborted.", { cause: signal?.reason });
}

export const closed = () => new ParleyError("closed", "The chat is closed.");

/** @param {number} status */
function codeOf(status) {
  if (status === 401) return "unauthenticated";
  if (status === 403) return "forbidden";
  if (status === 413) return "too_large";
  if (status === 429) return "rate_limited";
  return status >= 500 || status === 408 || status === 404 ? "unavailable" : "invalid_request";
}

/**
 * @param {string} code
 * @param {string} sentence
 */
function waitIn(code, sentence) {
  const found = code === "rate_limited" && /wait ([\d.]+?) s\b/.exec(sentence);
  return found ? Math.ceil(Number(found[1]) * 1000) : undefined;
}
