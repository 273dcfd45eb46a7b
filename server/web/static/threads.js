/**
 * The threads that one follows, the one with the last reply first: each leads to its panel. And how many of them have
 * replies that one has not read, as the server counts them.
 * @module
 */
import { openDialog } from "./dialog.js";
import { delayed, h } from "./dom.js";
import { FoundList } from "./found.js";

const TEXTS = { busy: "Looking …", none: "You follow no threads yet.", yet: "", failed: "They could not be read:" };
const AGAIN = 1000; // ms between two looks, however much happens

/** Run this when what is unread in threads may be another, as often as that may be asked of the server. */
function whenOther(chat, run, signal) {
  const later = delayed(() => signal.aborted || run(), AGAIN);
  chat.on("message", ({ message }) => message.threadId && later(), { signal });
  for (const type of ["thread", "reset", "removed"]) chat.on(type, later, { signal });
  chat.on("state", ({ state }) => state === "live" && later(), { signal });
  signal.addEventListener("abort", () => later.cancel());
}

/** Say how many threads have something unread, now and whenever that changes. What fails is asked again with the next news. */
export function countThreads({ chat, signal, onCount }) {
  const read = () => chat.unread({ signal }).then(({ unreadThreads = 0 }) => onCount(unreadThreads), () => {});
  whenOther(chat, read, signal);
  void read();
}

/** @param {{chat, people, onDone: (conversationId: string, rootId: string) => void}} options */
export function showThreads({ chat, people, onDone }) {
  let chosen = null;
  const stop = new AbortController();
  const { signal } = stop;
  const found = new FoundList({
    chat, people, label: "Threads that you follow", signal,
    onChoose: (message) => ((chosen = message), dialog.close()),
    again: (message, item) => ({ ...item, message }),
  });
  const dialog = openDialog({ title: "Threads", content: h("div", { class: "stack" }, h("p", { class: "muted", text: "Threads that you follow, the one with the last reply first." }), found.element), onClose: () => {
    stop.abort();
    if (chosen) setTimeout(() => onDone(chosen.conversationId, chosen.id)); // when the focus is back, to take it along
  } });
  const read = async () => {
    const threads = await chat.threads({ signal });
    return { items: threads.map(({ root, unreadCount }) => ({ message: root, highlights: [], unreadCount })), next: null };
  };
  found.show(read, TEXTS);
  whenOther(chat, () => found.show(read, TEXTS), signal);
}
