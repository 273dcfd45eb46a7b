/**
 * Files: upload with progress, links to read them, deletion.
 * @module
 */
import { ParleyError, abortedBy, errorOfAnswer } from "./errors.js";

/**
 * @typedef {object} StoredFile
 * @property {string} id for `send`
 * @property {string} key for `link`
 * @property {string} url
 * @property {string} name
 * @property {number} size
 * @property {string} contentType
 * @property {string} sha256
 * @property {number | null} width
 * @property {number | null} height
 * @property {string} createdAt
 *
 * @typedef {object} UploadOptions
 * @property {string} [name] where the file has none
 * @property {boolean} [presigned] put it into the file store directly, not through the server
 * @property {(sent: number, size: number) => void} [onProgress] in bytes; only at the beginning and the end where there
 *   is no XMLHttpRequest
 * @property {AbortSignal} [signal]
 */

export class Files {
  #rest;

  /** @param {import("./rest.js").Rest} rest */
  constructor(rest) {
    this.#rest = rest;
  }

  /**
   * @param {Blob} file
   * @param {UploadOptions} [options]
   * @returns {Promise<StoredFile>}
   */
  async upload(file, { name = "name" in file ? String(file.name) : "file", presigned = false, onProgress, signal } = {}) {
    onProgress?.(0, file.size);
    const key = crypto.randomUUID();
    const stored = presigned
      ? await this.#presigned(file, name, key, onProgress, signal)
      : await this.#through(file, name, key, onProgress, signal);
    onProgress?.(file.size, file.size);
    return stored;
  }

  /**
   * A link by which the file can be read for some minutes without an access token.
   * @param {{key: string}} file
   * @param {{signal?: AbortSignal}} [options]
   * @returns {Promise<{url: string, expiresAt: string}>}
   */
  link({ key }, { signal } = {}) {
    return this.#rest.get("/api/files/presigned-url", { query: { fileKey: key }, signal });
  }

  /**
   * What is in a file.
   * @param {{key: string}} file
   * @param {{signal?: AbortSignal}} [options]
   */
  download({ key }, { signal } = {}) {
    return this.#rest.blob(`/api/files/${key}`, { signal });
  }

  /**
   * @param {{url: string}} file
   * @param {{signal?: AbortSignal}} [options]
   */
  async delete({ url }, { signal } = {}) {
    await this.#rest.request("DELETE", "/api/files", { query: { fileUrl: url }, signal });
  }

  /**
   * @param {Blob} file
   * @param {string} name
   * @param {string} key
   * @param {UploadOptions["onProgress"]} onProgress
   * @param {AbortSignal | undefined} signal
   * @returns {Promise<StoredFile>}
   */
  async #through(file, name, key, onProgress, signal) {
    const form = new FormData();
    form.append("file", file, name);
    const path = "/api/files/upload";
    if (!onProgress || typeof XMLHttpRequest === "undefined")
      return this.#rest.request("POST", path, { content: form, key, signal, timeoutMs: null });
    const headers = { Authorization: `Bearer ${await this.#rest.token()}`, "Idempotency-Key": key };
    return JSON.parse(await put("POST", this.#rest.address(path), headers, form, onProgress, signal));
  }

  /**
   * @param {Blob} file
   * @param {string} name
   * @param {string} key
   * @param {UploadOptions["onProgress"]} onProgress
   * @param {AbortSignal | undefined} signal
   * @returns {Promise<StoredFile>}
   */
  async #presigned(file, name, key, onProgress, signal) {
    const body = { name, contentType: file.type || "application/octet-stream", size: file.size };
    const { id, uploadUrl, method, headers } = await this.#rest.request("POST", "/api/files/presign", { body, key, signal });
    if (onProgress && typeof XMLHttpRequest !== "undefined") await put(method, uploadUrl, headers, file, onProgress, signal);
    else await this.#rest.put(method, uploadUrl, headers, file, signal);
    return this.#rest.request("POST", `/api/files/${id}/complete`, { key: crypto.randomUUID(), signal });
  }
}

/**
 * By XMLHttpRequest, which alone says how far it has got.
 * @param {string} method
 * @param {string} url
 * @param {Record<string, string>} headers
 * @param {XMLHttpRequestBodyInit} body
 * @param {(sent: number, size: number) => void} onProgress
 * @param {AbortSignal | undefined} signal
 * @returns {Promise<string>}
 */
function put(method, url, headers, body, onProgress, signal) {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(abortedBy(signal));
    const request = new XMLHttpRequest();
    const abort = () => request.abort();
    const over = (/** @type {() => void} */ how) => () => (signal?.removeEventListener("abort", abort), how());
    request.open(method, url);
    for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
    request.upload.onprogress = ({ loaded, total }) => onProgress(loaded, total);
    request.onload = over(() => {
      const { status, responseText: text } = request;
      if (status >= 200 && status < 300) resolve(text);
      else errorOfAnswer(new Response(text || null, { status })).then(reject);
    });
    request.onerror = over(() => reject(new ParleyError("network", "The upload failed.")));
    request.onabort = over(() => reject(abortedBy(signal)));
    signal?.addEventListener("abort", abort);
    request.send(body);
  });
}
