/**
 * Keeping people away, and keeping order: blocks, reports, and what admins of a group and moderators of the service do.
 * Owns these menus, and one's own role in the service. Shown is what the server lets one do; it decides.
 * @module
 */
import { openLater } from "./dialog.js";
import { explained } from "./explained.js";

export class Safety {
  #chat;
  #people;
  #say;
  #onRole;
  role = "User"; // in the service

  /** @param {{chat, people, say, onRole: () => void}} options `onRole`: it is known by now */
  constructor({ chat, people, say, onRole }) {
    this.#chat = chat;
    this.#people = people;
    this.#say = say;
    this.#onRole = onRole;
    chat.on("state", ({ state }) => state === "live" && void this.#learn());
    if (chat.state === "live") void this.#learn();
  }

  get isModerator() {
    return this.role !== "User";
  }

  async #learn() {
    try {
      this.role = (await this.#chat.standing()).role;
      this.#onRole();
    } catch {
      // with the next connection
    }
  }

  /** What one can do about another person, or one of their messages: entries of a menu. */
  items(userId, { conversation = null, message = null } = {}) {
    if (userId === this.#people.me.id) return [];
    const isGroup = conversation?.type === "Group";
    const member = isGroup ? conversation.members.find((each) => each.userId === userId) : null;
    const rank = { Owner: 2, Admin: 1 };
    const mine = rank[conversation?.role] ?? 0;
    const mayRestrict = isGroup && (this.isModerator || mine === 2 || (mine === 1 && !rank[member?.role]));
    return [
      { text: message ? "Report this message" : "Report", run: () => void this.open("report", userId, message) },
      this.#chat.isBlocked(userId) ? { text: "Unblock", run: () => void this.unblock(userId) } : { text: "Block", isDanger: true, run: () => void this.open("block", userId) },
      mayRestrict && { text: "Mute in this group", run: () => void this.open("mute", conversation, userId) },
      mayRestrict && { text: "Remove and keep out", isDanger: true, run: () => void this.open("keepOut", conversation, userId) },
      this.isModerator && { text: "Ban from this service", isDanger: true, run: () => void this.open("ban", userId) },
    ].filter(Boolean);
  }

  /** Open a dialog (`safety-dialogs.js`) by the name of its function. */
  open(name, ...given) {
    const about = { chat: this.#chat, people: this.#people, say: this.#say };
    return openLater(() => import("./safety-dialogs.js"), (dialogs) => dialogs[name](about, ...given), this.#say);
  }

  /** @returns {Promise<boolean>} whether it is done */
  async unblock(userId) {
    try {
      await this.#chat.unblock(userId);
      this.#say("Unblocked.");
      return true;
    } catch (error) {
      this.#say(explained(error));
      return false;
    }
  }
}
