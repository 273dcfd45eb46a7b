/**
 * Searching for messages: a field, and what is found, the newest first.
 * @module
 */
import { debounced, h, replace } from "./dom.js";
import { openDialog } from "./dialog.js";
import { avatar } from "./people.js";
import { momentOf, shortTime } from "./text.js";

const BEFORE = 40; // of a text that is long, shown before the first place that was looked for
const SHOWN = 240;
const LOOKS = 5; // pages that are asked for until there is something to show

/** @param {{chat, people, start?: string, onDone: (conversationId: string, messageId: string) => void}} options */
export function searchMessages({ chat, people, start = "", onDone }) {
  let found = [];
  let next = null;
  let asked = 0;
  let chosen = null;
  const input = h("input", { type: "search", placeholder: "Words, \"phrases\", beginnings*", "aria-label": "Search messages", maxLength: 256, autocomplete: "off", spellcheck: false, dir: "auto", value: start });
  const list = h("ul", { class: "options found", role: "list", "aria-label": "Messages", hidden: true });
  const status = h("p", { class: "muted", role: "status" });
  const more = h("button", { type: "button", text: "Show more", hidden: true, on: { click: () => read(next) } });
  const stop = new AbortController();

  function paint() {
    list.hidden = !found.length;
    more.hidden = !next;
    replace(list, found.map(({ message, highlights }) => {
      const conversation = chat.conversation(message.conversationId);
      const name = people.nameOf(message.senderId);
      return h("li", {}, h("button", { type: "button", class: "found-message", data: { id: message.id }, on: { click: () => ((chosen = message), dialog.close()) } },
        avatar(name, message.senderId),
        h("span", { class: "option-text" },
          h("span", {}, h("bdi", { text: name }), conversation && h("small", {}, " · ", h("bdi", { text: people.titleOf(conversation) }))),
          h("span", { class: "excerpt", dir: "auto" }, excerpt(message.content, highlights.filter(({ field }) => field === "content"))),
          message.file && h("small", { dir: "auto" }, excerpt(message.file.name, highlights.filter(({ field }) => field === "fileName")))),
        h("time", { class: "time", title: momentOf(message.createdAt), text: shortTime(message.createdAt) })));
    }));
  }

  async function read(cursor) {
    const mine = ++asked;
    const text = input.value.trim();
    const items = cursor ? [...found] : [];
    let following = cursor;
    try {
      for (let look = 0; text && look < LOOKS && (look === 0 || (following && items.length === found.length)); look++) {
        if (!cursor && look === 0) found = [];
        const page = await chat.searchMessages(text, { cursor: following, signal: stop.signal });
        if (mine !== asked) return;
        items.push(...page.items);
        following = page.next;
      }
      found = items;
      next = text ? following : null;
      status.textContent = found.length || !text ? "" : next ? "Nothing among the newer messages." : "No message has these words.";
    } catch (error) {
      if (mine !== asked || stop.signal.aborted) return;
      status.textContent = `The search failed: ${error.message}`;
    }
    paint();
  }

  const search = debounced(() => read(null), 250);
  input.addEventListener("input", search);
  people.addEventListener("change", paint, { signal: stop.signal });
  const form = h("form", { class: "stack", role: "search", on: { submit: (event) => (event.preventDefault(), void read(null)) } }, input, status, list, more);
  const dialog = openDialog({ title: "Search messages", content: form, onClose: () => {
    stop.abort();
    if (chosen) setTimeout(() => onDone(chosen.conversationId, chosen.id)); // when the focus is back, to take it along
  } });
  input.focus();
  if (start) void read(null);
}

/** The part of a text around the first place, with all places in it marked. */
function excerpt(text, places) {
  const first = places.length ? Math.max(0, places[0].start - BEFORE) : 0;
  const from = isInside(text, first) ? first - 1 : first;
  const end = Math.min(text.length, from + SHOWN);
  const to = isInside(text, end) ? end - 1 : end;
  const parts = [from > 0 ? "…" : ""];
  let at = from;
  for (const { start, length } of places) {
    if (start < at || start + length > to) continue;
    parts.push(text.slice(at, start), h("mark", { text: text.slice(start, start + length) }));
    at = start + length;
  }
  return [...parts, text.slice(at, to), to < text.length ? "…" : ""];
}

/** Whether a cut there would divide a character. */
const isInside = (text, index) => index > 0 && index < text.length && /[\udc00-\udfff]/.test(text[index]);
