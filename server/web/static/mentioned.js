/**
 * Where one is mentioned: the messages that mention one, the newest first, each leads to where it stands.
 * @module
 */
import { h } from "./dom.js";
import { openDialog } from "./dialog.js";
import { FoundList } from "./found.js";
import { mentionOf } from "./text.js";

const TEXTS = { busy: "Looking …", none: "No message mentions you yet.", yet: "Nothing among the newer messages.", failed: "They could not be read:" };
const PAGE = 20;

/** @param {{chat, people, onDone: (conversationId: string, messageId: string) => void}} options */
export function showMentions({ chat, people, onDone }) {
  let chosen = null;
  const stop = new AbortController();
  const { signal } = stop;
  const hit = (message) => ({ message, highlights: placesOf(message, people.me) });
  const found = new FoundList({
    chat, people, label: "Messages that mention you", signal,
    onChoose: (message) => ((chosen = message), dialog.close()),
    again: (message) => (message.isMention && !message.deletedAt ? hit(message) : null),
  });
  chat.on("message", ({ message }) => message.isMention && found.add(hit(message)), { signal });
  const dialog = openDialog({ title: "Mentions", content: h("div", { class: "stack" }, h("p", { class: "muted", text: "Messages that mention you, by name or as one of all." }), found.element), onClose: () => {
    stop.abort();
    if (chosen) setTimeout(() => onDone(chosen.conversationId, chosen.id)); // when the focus is back, to take it along
  } });
  found.show(async (cursor) => {
    const { items, next } = await chat.mentions({ limit: PAGE, cursor, signal });
    return { items: items.map(hit), next };
  }, TEXTS);
}

/** Where the text names one, or all. */
function placesOf({ content, mentions, mentionAll }, me) {
  const pattern = mentionOf([mentions.includes(me.id) && me.username, mentionAll && "all"]);
  if (!pattern) return [];
  return [...content.matchAll(new RegExp(pattern.source, "giu"))].map(({ index, 0: { length } }) => ({ field: "content", start: index, length }));
}
