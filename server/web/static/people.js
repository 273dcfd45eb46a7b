/**
 * Other people: their profiles, as they are asked for and kept, whether they are there, and how a conversation with
 * them is called.
 * @module
 */
import { h, setText } from "./dom.js";
import { agoOf, hueOf, initials } from "./text.js";

const TOGETHER = 20; // ms in which questions about presence gather
const AGAIN = 10 * 60_000; // ms after which a profile is read anew when it is shown
const UNNOTICED = 1000; // ms
const AT_ONCE = 6; // profiles that are read at the same time

export class People extends EventTarget {
  #chat;
  #known = new Map();
  #waiting = [];
  #running = 0;
  #wanted = new Set();
  #asked = new Set();
  #timer = null;

  constructor(chat, me) {
    super();
    this.#chat = chat;
    this.me = me;
    this.learn(me);
    chat.on("presence", ({ userId }) => this.#say("presence", userId));
    chat.on("blocks", () => this.#say("presence", null));
    chat.on("state", ({ state }) => this.#onState(state));
  }

  learn(user) {
    this.#known.set(user.id, { user, at: Date.now() });
    this.#say("change", user.id);
  }

  /** What is known of somebody; what is not, is asked for, and `change` says when it is there. */
  get(id) {
    const found = this.#known.get(id);
    if ((!found || Date.now() - found.at > AGAIN) && !this.#waiting.includes(id)) {
      this.#known.set(id, { user: found?.user ?? null, at: Date.now() });
      this.#waiting.push(id);
      this.#read();
    }
    return found?.user ?? null;
  }

  /** What is known of somebody by now; nothing is asked for. */
  known(id) {
    return this.#known.get(id)?.user ?? null;
  }

  nameOf(id) {
    if (!id) return "Somebody";
    const user = this.get(id);
    return user ? user.displayName || user.username : "…";
  }

  /** Ask for their presence once, and hear of it from then on. */
  watch(ids) {
    for (const id of ids) if (id !== this.me.id && !this.#asked.has(id)) this.#wanted.add(id);
    if (this.#wanted.size) this.#timer ??= setTimeout(() => this.#askPresence(), TOGETHER);
  }

  presenceOf(id) {
    return this.#chat.presenceOf(id) ?? this.#known.get(id)?.user ?? null;
  }

  statusOf(id) {
    return this.isBlind ? "" : this.presenceOf(id)?.status ?? "Offline";
  }

  /** Without a connection it is not known who is there; a short loss is not worth a mention. */
  #onState(state) {
    if (state === "live") {
      clearTimeout(this.#lost);
      this.#lost = null;
      if (this.isBlind) this.#become(false);
      this.#askPresence();
    } else this.#lost ??= setTimeout(() => this.#become(true), UNNOTICED);
  }

  #lost = null;
  isBlind = false;

  #become(isBlind) {
    this.isBlind = isBlind;
    this.#say("presence", null);
  }

  /** In words: the text that somebody chose, or whether they are there. */
  standingOf(id) {
    if (this.#chat.isBlocked(id)) return "Blocked";
    const known = this.presenceOf(id);
    if (!known || this.isBlind) return "";
    const words = { Online: "Online", Away: "Away", Busy: "Busy", Offline: known.lastSeenAt ? `Last seen ${agoOf(known.lastSeenAt)}` : "Offline" };
    return known.statusText ? `${words[known.status]} · ${known.statusText}` : words[known.status];
  }

  otherOf(conversation) {
    return conversation.type === "Direct" ? conversation.members.find(({ userId }) => userId !== this.me.id)?.userId ?? null : null;
  }

  titleOf(conversation) {
    if (conversation.name) return conversation.name;
    const others = conversation.members.filter(({ userId }) => userId !== this.me.id);
    if (conversation.type === "Direct") return others.length ? this.nameOf(others[0].userId) : conversation.memberCount > 1 ? "…" : "Deleted user";
    if (conversation.type === null) return "…";
    if (!others.length) return "Only you";
    const names = others.slice(0, 3).map(({ userId }) => this.nameOf(userId));
    const more = conversation.memberCount - 1 - names.length;
    return more > 0 ? `${names.join(", ")} and ${more} more` : names.join(", ");
  }

  #read() {
    while (this.#running < AT_ONCE && this.#waiting.length) {
      const id = this.#waiting[0];
      this.#running++;
      this.#chat.user(id)
        .then((user) => this.learn(user), (error) => {
          if (error.code === "not_found") this.learn({ id, username: "", displayName: "Deleted user", status: "Offline" });
          else this.#known.delete(id); // asked for again when it is shown again
        })
        .finally(() => {
          this.#running--;
          this.#read();
        });
      this.#waiting.shift();
    }
  }

  async #askPresence() {
    this.#timer = null;
    const ids = [...this.#wanted];
    if (!ids.length || this.#chat.state !== "live") return;
    for (const id of ids) this.#asked.add(id);
    this.#wanted.clear();
    try {
      await this.#chat.presence(ids);
    } catch {
      for (const id of ids) {
        this.#asked.delete(id);
        this.#wanted.add(id); // when the connection is there again
      }
    }
  }

  #say(type, id) {
    this.dispatchEvent(new CustomEvent(type, { detail: id }));
  }
}

/** A round picture with letters, square for a group; with `presence`, a dot that says whether somebody is there. */
export function avatar(name, id, { presence = false, size = "", isGroup = false } = {}) {
  return h("span", { class: `avatar ${size} ${isGroup ? "group " : ""}hue-${hueOf(id)}`, "aria-hidden": true }, h("span", { text: initials(name) }), presence && h("span", { class: "dot" }));
}

export function setAvatar(element, name, id, status) {
  setText(element.firstChild, initials(name));
  element.className = element.className.replace(/hue-\d+/, `hue-${hueOf(id)}`);
  const dot = element.querySelector(".dot");
  if (dot) dot.className = `dot ${(status ?? "").toLowerCase()}`;
}
