/**
 * What somebody has begun to write, by conversation: it stays in this browser, over reloads, and is theirs alone.
 * @module
 */

const PREFIX = "parley.draft/";

const keyOf = (userId, conversationId) => `${PREFIX}${userId}/${conversationId}`;

export const draftOf = (userId, conversationId) => localStorage.getItem(keyOf(userId, conversationId)) ?? "";

export function keepDraft(userId, conversationId, text) {
  try {
    if (text) localStorage.setItem(keyOf(userId, conversationId), text);
    else localStorage.removeItem(keyOf(userId, conversationId));
  } catch {
    // the storage is full: the text stays in the field
  }
}

export function forgetDrafts(userId) {
  for (const key of Object.keys(localStorage)) if (key.startsWith(`${PREFIX}${userId}/`)) localStorage.removeItem(key);
}
