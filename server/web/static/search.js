/**
 * Searching for messages: a field, and what is found.
 * @module
 */
import { debounced, h } from "./dom.js";
import { openDialog } from "./dialog.js";
import { FoundList } from "./found.js";

const TEXTS = { busy: "Searching …", none: "No message has these words.", yet: "Nothing among the newer messages.", failed: "The search failed:" };

/**
 * @param {{chat, people, conversation?, start?: string, onDone: (conversationId: string, messageId: string) => void}} options
 *   `conversation`: in which it may be searched alone
 */
export function searchMessages({ chat, people, conversation = null, start = "", onDone }) {
  let chosen = null;
  const stop = new AbortController();
  const input = h("input", { type: "search", placeholder: "Words, \"phrases\", beginnings*", "aria-label": "Search messages", maxLength: 256, autocomplete: "off", spellcheck: false, dir: "auto", value: start });
  const here = h("input", { type: "checkbox" });
  const found = new FoundList({ chat, people, label: "Messages", signal: stop.signal, onChoose: (message) => ((chosen = message), dialog.close()), onLeave: () => input.focus() });

  function read() {
    const text = input.value.trim();
    if (!text) return found.clear();
    const conversationId = here.checked ? conversation.id : undefined;
    found.show((cursor) => chat.searchMessages(text, { cursor, conversationId, signal: stop.signal }), TEXTS);
  }

  input.addEventListener("input", debounced(read, 250));
  here.addEventListener("change", read);
  input.addEventListener("keydown", (event) => {
    if (event.key !== "ArrowDown") return;
    event.preventDefault();
    found.focusFirst();
  });
  const scope = conversation && h("label", { class: "choice" }, here, h("span", {}, "Only in ", h("bdi", { text: people.titleOf(conversation) })));
  const form = h("form", { class: "stack", role: "search", on: { submit: (event) => (event.preventDefault(), read()) } }, input, scope, found.element);
  const dialog = openDialog({ title: "Search messages", content: form, onClose: () => {
    stop.abort();
    if (chosen) setTimeout(() => onDone(chosen.conversationId, chosen.id)); // when the focus is back, to take it along
  } });
  input.focus();
  if (start) read();
}
