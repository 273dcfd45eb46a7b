/**
 * What a store is: a few thousand small entries by key, read once at the start, then written in batches.
 * The keys and values are `persistence.js`'s.
 * @module
 */

/**
 * @typedef {object} Store
 * @property {() => Promise<Map<string, unknown>>} load All entries. May raise: then the store is cleared.
 * @property {(changes: Map<string, unknown>) => Promise<void>} write All of them or none; null deletes an entry.
 * @property {() => Promise<void>} clear
 * @property {string} [scope] Names what is shared with other tabs, if it is.
 */

export {};
