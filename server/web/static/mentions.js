/**
 * Whom a text mentions, and who is offered while one types a name behind an @.
 * @module
 */
import { debounced, h, replace, set } from "./dom.js";
import { offer } from "./session.js";
import { mentionOf } from "./text.js";

const SHOWN = 8;
const MOST = 50; // in one message
const FEW = 50; // members whose profiles are read at once; in larger groups names are searched for
const MOST_MEMBERS = 2000; // of whom it is read that they are there
const ALL = "all";
const TYPED = /(?:^|\s)@([^\n@]{0,64})$/u;

const mayMentionAll = ({ type, role, memberCount }) => type === "Group" && ((role !== null && role !== "Member") || memberCount <= offer.mentionAllMembers);

/**
 * Those whom a text names by `@username`, and whether it names all. Whom a message mentioned before, and who is not known
 * here, stays.
 */
export function mentionedBy(text, conversation, people, before = null) {
  const isNamed = (name) => Boolean(name && mentionOf([name])?.test(text));
  const known = conversation.members.map(({ userId }) => people.known(userId)).filter((user) => user?.username);
  const named = known.filter(({ username }) => isNamed(username)).map(({ id }) => id);
  const kept = (before?.mentions ?? []).filter((id) => !known.some((user) => user.id === id));
  return {
    mentions: [...new Set([...named, ...kept])].slice(0, MOST),
    mentionAll: isNamed(ALL) && ((before?.mentionAll ?? false) || mayMentionAll(conversation)),
  };
}

/** What a message's text is searched for, to show whom it mentions; null for none. */
export function mentionsOf({ mentions, mentionAll }, people) {
  return mentionOf([...mentions.map((id) => people.get(id)?.username), mentionAll ? ALL : null]);
}

/** The list above the field where one writes. */
export class MentionList {
  #input;
  #chat;
  #people;
  #conversation = null;
  #found = [];
  #at = 0;
  #isWanted = false; // a name is being typed, and no one has said that the list is not wanted
  #membersOf = null; // the conversation whose members were read
  #asked = null; // what was searched for last
  #search;

  constructor({ input, chat, people, signal }) {
    this.#input = input;
    this.#chat = chat;
    this.#people = people;
    this.#search = debounced((typed) => this.#find(typed), 150);
    this.element = h("ul", { class: "mention-list", id: "mention-list", role: "listbox", "aria-label": "Mention", hidden: true });
    set(input, { "aria-autocomplete": "list", "aria-controls": this.element.id });
    input.addEventListener("blur", () => this.hide());
    people.addEventListener("change", () => this.#isWanted && this.update(), { signal });
  }

  open(conversation) {
    this.#conversation = conversation;
    this.#asked = null;
    this.hide();
    if (this.#input.value.includes("@")) this.#ask("");
  }

  hide() {
    this.#isWanted = false;
    this.#found = [];
    this.#paint();
  }

  /** The text or the caret is another one. */
  update() {
    const typed = this.#typed();
    this.#isWanted = typed !== null;
    if (typed !== null) this.#ask(typed);
    const isChosen = this.#found[this.#at]?.username;
    this.#found = typed === null ? [] : this.#matching(typed.toLocaleLowerCase());
    this.#at = Math.max(0, this.#found.findIndex(({ username }) => username === isChosen));
    this.#paint();
  }

  /** @returns {boolean} whether the key was meant for the list */
  onKey(event) {
    if (!this.#found.length || event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return false;
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) {
      this.#at = (this.#at + step + this.#found.length) % this.#found.length;
      this.#paint();
    } else if (event.key === "Enter" || event.key === "Tab") this.#choose(this.#found[this.#at]);
    else if (event.key === "Escape") this.hide();
    else return false;
    event.preventDefault();
    event.stopPropagation();
    return true;
  }

  #typed() {
    const { value, selectionStart, selectionEnd } = this.#input;
    if (!this.#conversation || selectionStart !== selectionEnd) return null;
    return TYPED.exec(value.slice(0, selectionStart))?.[1] ?? null;
  }

  /** Read the profiles of those who can be mentioned, as far as they are not known. */
  #ask(typed) {
    const conversation = this.#conversation;
    if (!conversation) return;
    if (conversation.memberCount <= FEW) for (const { userId } of conversation.members) this.#people.get(userId);
    else if (typed !== this.#asked) this.#search((this.#asked = typed));
    if (conversation.members.length >= conversation.memberCount || conversation.memberCount > MOST_MEMBERS || this.#membersOf === conversation) return;
    this.#membersOf = conversation;
    conversation.loadMembers().then(() => this.#isWanted && this.update(), () => (this.#membersOf = null));
  }

  async #find(typed) {
    try {
      const { items } = await this.#chat.searchUsers(typed.trim(), { limit: 50 });
      for (const user of items) this.#people.learn(user);
    } catch {
      this.#asked = null; // the next key asks again
    }
  }

  #matching(typed) {
    const isMatch = (text) => text.toLocaleLowerCase().startsWith(typed);
    const users = this.#conversation.members.map(({ userId }) => this.#people.known(userId)).filter((user) => user?.username && user.id !== this.#people.me.id);
    const found = users.filter(({ username, displayName }) => isMatch(username) || isMatch(displayName ?? "") || (displayName ?? "").split(/\s+/u).some(isMatch));
    found.sort((one, other) => one.username.localeCompare(other.username));
    if (mayMentionAll(this.#conversation) && isMatch(ALL)) found.unshift({ username: ALL, displayName: "Everybody here" });
    return found.slice(0, SHOWN);
  }

  #choose({ username }) {
    const { value, selectionStart } = this.#input;
    const start = value.slice(0, selectionStart).lastIndexOf("@");
    this.#input.setRangeText(`@${username} `, start, selectionStart, "end");
    this.#input.dispatchEvent(new Event("input", { bubbles: true }));
    this.hide();
  }

  #paint() {
    this.element.hidden = !this.#found.length;
    replace(this.element, this.#found.map((user, index) => h("li", {
      role: "option", id: `mention-${index}`, "aria-selected": String(index === this.#at),
      on: { pointerdown: (event) => (event.preventDefault(), this.#choose(user)) },
    }, h("bdi", { text: user.displayName || user.username }), " ", h("small", { dir: "auto", text: `@${user.username}` }))));
    set(this.#input, { "aria-activedescendant": this.#found.length ? `mention-${this.#at}` : null });
  }
}
