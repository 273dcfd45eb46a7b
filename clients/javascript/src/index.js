/**
 * `@parley/client`: chat with a Parley server.
 * @module
 */
import { Chat } from "./chat.js";

/**
 * Connect, for as long as the chat is not closed. Resolves when everything that was missed is there; with a store that
 * has this user's conversations already at once, to show them. Raises ParleyError when the server does not want this
 * user, when `token` raises, and when `signal` is aborted.
 * @param {import("./options.js").Options} options
 * @returns {Promise<Chat>}
 */
async function connect(options) {
  return new Chat(options).start(options.signal);
}

export const Parley = { connect };
export { Chat } from "./chat.js";
export { Conversation } from "./conversation.js";
export { ParleyError } from "./errors.js";
export { ChatEvent } from "./events.js";
export { Message } from "./message.js";
export { FileStore } from "./stores/file.js";
export { IndexedDBStore } from "./stores/indexed-db.js";
export { LocalStorageStore } from "./stores/local-storage.js";
export { MemoryStore } from "./stores/memory.js";

/**
 * @typedef {import("./options.js").Options} Options
 * @typedef {import("./options.js").Timing} Timing
 * @typedef {import("./stores/store.js").Store} Store
 * @typedef {import("./link.js").State} State
 * @typedef {import("./message.js").Status} Status
 * @typedef {import("./members.js").Member} Member
 * @typedef {import("./chat.js").User} User
 * @typedef {import("./chat.js").Presence} Presence
 * @typedef {import("./chat.js").Privacy} Privacy
 * @typedef {import("./chat.js").UnreadTotals} UnreadTotals
 * @typedef {import("./chat.js").SearchHit} SearchHit
 * @typedef {import("./blocks.js").Block} Block
 * @typedef {import("./chat.js").Standing} Standing
 * @typedef {import("./chat.js").Report} Report
 * @typedef {import("./chat.js").FullReport} FullReport
 * @typedef {import("./chat.js").PublicGroup} PublicGroup
 * @typedef {import("./conversation.js").JoinLink} JoinLink
 * @typedef {import("./chat.js").SessionInfo} SessionInfo
 * @typedef {import("./chat.js").Thread} Thread
 * @typedef {import("./conversation.js").ThreadState} ThreadState
 * @typedef {import("./files.js").StoredFile} StoredFile
 */
