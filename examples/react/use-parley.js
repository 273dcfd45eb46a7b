// React hooks for @parley/client. Its lists are the same objects until something changes, and each message is: that is
// what useSyncExternalStore asks for, and what lets memo() skip the messages that are as before.
import { useCallback, useSyncExternalStore } from "react";

function useParley(source, event, read) {
  const subscribe = useCallback((onChange) => source.on(event, onChange), [source, event]); // `on` returns the way out
  return useSyncExternalStore(subscribe, read);
}

/** The messages that are shown: complete, in order, one's own that are still on their way at the end. */
export const useMessages = (conversation) => useParley(conversation, "update", () => conversation.messages);

/** The conversations, the most recently active first. */
export const useConversations = (chat) => useParley(chat, "list", () => chat.conversations);

/** `connecting`, `catching_up`, `live`, `offline` or `closed`. */
export const useConnection = (chat) => useParley(chat, "state", () => chat.state);
