/**
 * Where one writes: text, what it answers or edits, files on their way. What is written stays with its conversation,
 * also over a reload; files are uploaded while one still writes.
 * @module
 */
import { delayed, h, icon, iconButton, replace, setText } from "./dom.js";
import { draftOf, keepDraft } from "./drafts.js";
import { explained } from "./explained.js";
import { MentionList, mentionedBy } from "./mentions.js";
import { mayEdit, summaryOf } from "./message-view.js";
import { Posting } from "./posting.js";
import { offer, stored } from "./session.js";
import { fileName, sizeOf } from "./text.js";

const AT_ONCE = 20; // files
const WARN_AT = 0.9; // of the longest message
const encoder = new TextEncoder();

/** By what is begun and not sent is kept: a thread has its own. */
const keyOf = (conversation) => conversation.draftKey ?? conversation.id;

export class Composer {
  #chat;
  #people;
  #pictures;
  #actions;
  #conversation = null;
  #reply = null;
  #edited = null;
  #kept = new Map(); // what belongs to conversations that are not open: files and replies
  #stop = null;
  #life = new AbortController();

  constructor({ chat, people, pictures, actions }) {
    this.#chat = chat;
    this.#people = people;
    this.#pictures = pictures;
    this.#actions = actions;
    this.files = [];
    this.input = h("textarea", { rows: 1, placeholder: "Write a message", "aria-label": "Message", dir: "auto", enterkeyhint: "send", on: {
      input: () => this.#onInput(), keydown: (event) => this.#onKey(event), paste: (event) => this.#onPaste(event) } });
    this.picker = h("input", { type: "file", multiple: true, hidden: true, accept: offer.uploadTypes.join(","), on: { change: () => this.#onPicked() } });
    this.context = h("div", { class: "composer-context", hidden: true });
    this.tray = h("ul", { class: "tray", "aria-label": "Files to send", hidden: true });
    this.note = h("p", { class: "composer-note", role: "status" });
    this.button = iconButton("send", "Send", () => this.submit(), { class: "send" });
    this.attach = offer.hasFiles ? iconButton("attach", "Attach files", () => this.picker.click()) : null;
    this.mentions = new MentionList({ input: this.input, chat, people, signal: this.#life.signal });
    this.posting = new Posting({ chat, people, onChange: () => this.#paint(), unblock: (id) => void actions.unblock(id).then((isDone) => isDone && this.focus()) });
    this.row = h("div", { class: "composer-row" }, this.attach, this.picker, this.input, this.button);
    this.element = h("form", { class: "composer", "aria-label": "Write a message", on: { submit: (event) => (event.preventDefault(), this.submit()) } },
      this.mentions.element, this.context, this.tray, this.posting.element, this.row, this.note);
    this.#save = delayed((id, text) => this.#keepDraft(id, text), 300);
  }

  #save;

  open(conversation) {
    if (this.#conversation === conversation) return;
    this.#stop?.abort();
    if (this.#conversation) {
      this.#conversation.stopTyping();
      if (this.#edited) this.#leaveEdit();
      this.#save.cancel();
      this.#keepDraft(keyOf(this.#conversation), this.input.value);
      this.#kept.set(keyOf(this.#conversation), { files: this.files, reply: this.#reply });
    }
    this.#conversation = conversation;
    this.#stop = new AbortController();
    conversation?.on("change", ({ message }) => this.#onChange(message), { signal: this.#stop.signal });
    const kept = conversation ? this.#kept.get(keyOf(conversation)) : null;
    this.files = kept?.files ?? [];
    this.#reply = kept?.reply ?? null;
    this.#edited = null;
    this.input.value = conversation ? this.#draft(keyOf(conversation)) : "";
    this.mentions.open(conversation);
    this.posting.open(conversation);
    this.#paint();
  }

  /** What is not sent stays where it is kept. */
  close() {
    this.#stop?.abort();
    this.#life.abort();
    this.posting.close();
    this.keep();
    for (const { abort } of this.files) abort?.abort();
  }

  /** The view or the page ends: also what was typed just now is kept, unless the person has signed out. */
  keep() {
    if (stored()) this.#save.now();
    else this.#save.cancel();
  }

  focus() {
    this.input.focus();
  }

  /** What is answered or edited here was edited or deleted meanwhile. */
  #onChange(message) {
    if (message.id === this.#reply?.id) {
      this.#reply = message.deletedAt ? null : message;
      if (message.deletedAt) this.#actions.say("The message that you were answering was deleted.");
    } else if (message.id === this.#edited?.id) {
      const text = this.input.value;
      const isTouched = text !== this.#edited.content;
      if (!message.deletedAt) this.#edited = message;
      else {
        this.#leaveEdit();
        if (isTouched && !this.input.value) this.input.value = text; // it is not lost
        this.#actions.say("The message that you were editing was deleted.");
      }
    } else return;
    this.#paint();
  }

  reply(message) {
    if (this.posting.isForbidden) return this.#actions.say(this.posting.reason);
    if (this.#edited) this.#leaveEdit();
    this.#reply = message;
    this.#paint();
    this.focus();
  }

  edit(message) {
    if (!this.#edited) this.#keepDraft(keyOf(this.#conversation), this.input.value);
    this.#edited = message;
    this.input.value = message.content;
    this.#paint();
    this.focus();
    this.input.setSelectionRange(this.input.value.length, this.input.value.length);
  }

  #leaveEdit() {
    this.#edited = null;
    this.input.value = this.#draft(keyOf(this.#conversation));
    this.#paint();
  }

  // -- text -------------------------------------------------------------------------------------------------------

  #draft(id) {
    return draftOf(this.#people.me.id, id);
  }

  #keepDraft(id, text) {
    keepDraft(this.#people.me.id, id, text);
  }

  #onInput() {
    this.#fit();
    this.mentions.update();
    this.#paintNote();
    if (this.#edited || !this.#conversation) return;
    this.#save(keyOf(this.#conversation), this.input.value);
    if (this.input.value.trim()) this.#conversation.startTyping();
    else this.#conversation.stopTyping();
  }

  #fit() {
    const { input } = this;
    input.style.setProperty("height", "auto");
    input.style.setProperty("height", `${Math.min(input.scrollHeight, 240)}px`);
    this.#paintButton();
  }

  #onKey(event) {
    if (event.isComposing || event.keyCode === 229) return; // an input method is at work
    if (this.mentions.onKey(event)) return;
    const isTouch = matchMedia("(pointer: coarse)").matches;
    if (event.key === "Enter" && !event.shiftKey && !event.altKey && (!isTouch || event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      this.submit();
    } else if (event.key === "Escape" && (this.#edited || this.#reply)) {
      event.preventDefault();
      event.stopPropagation();
      if (this.#edited) this.#leaveEdit();
      this.#reply = null;
      this.#paint();
    } else if (event.key === "ArrowUp" && !this.input.value && !event.shiftKey) {
      event.preventDefault();
      const last = this.#conversation.messages.findLast(mayEdit);
      if (last && event.ctrlKey === false) this.edit(last);
    }
  }

  submit() {
    const conversation = this.#conversation;
    if (!conversation || conversation.isGone) return;
    const text = this.input.value.trim();
    if (encoder.encode(text).length > offer.maxMessageBytes) return this.#paintNote();
    if (this.#edited) return void this.#submitEdit(text);
    const isWithFiles = this.files.some(({ isLeaving, error }) => !isLeaving && !error);
    if (!text && !isWithFiles) return;
    if (this.posting.reason) return this.#actions.say(this.posting.reason); // what is written stays
    const replyToId = this.#reply?.id;
    if (isWithFiles) void this.#submitFiles(conversation, text, replyToId);
    else this.#send(conversation, text, { replyToId });
    this.mentions.hide();
    this.input.value = "";
    this.#save.cancel();
    this.#keepDraft(keyOf(conversation), "");
    this.#reply = null;
    this.#paint();
    this.#actions.onSent();
    this.focus();
  }

  #send(conversation, text, fields) {
    const message = conversation.send(text, { ...fields, ...mentionedBy(text, conversation, this.#people) });
    const takesBack = !fields.fileId; // text can be written once more
    void this.posting.follow(conversation, message, (said) => takesBack && this.#takeBack(conversation, said));
  }

  /** What was refused until later is to be sent again by who wrote it, unless something else is written there by now. */
  #takeBack(conversation, text) {
    const id = keyOf(conversation);
    const isOpen = this.#conversation !== null && id === keyOf(this.#conversation);
    if (conversation.isGone || (isOpen ? this.#edited || this.input.value : this.#draft(id))) return false;
    this.#keepDraft(id, text);
    if (!isOpen) return true;
    this.input.value = text;
    this.#paint();
    this.#actions.say(this.posting.reason);
    return true;
  }

  async #submitEdit(text) {
    const [message, conversation] = [this.#edited, this.#conversation];
    if (!text) return this.#actions.remove(message);
    this.#leaveEdit();
    if (text === message.content) return;
    try {
      await message.edit(text, mentionedBy(text, conversation, this.#people, message));
    } catch (error) {
      this.#actions.say(`The message was not changed: ${explained(error)}`);
      if (this.#conversation?.id === message.conversationId) {
        this.edit(message);
        this.input.value = text;
        this.#fit();
      }
    }
  }

  // -- files ------------------------------------------------------------------------------------------------------

  #onPaste(event) {
    const files = [...(event.clipboardData?.files ?? [])];
    if (!files.length || event.clipboardData.types.includes("text/rtf")) return; // text, of which an office program adds a picture
    event.preventDefault();
    this.add(files);
  }

  #onPicked() {
    this.add([...this.picker.files]);
    this.picker.value = "";
  }

  add(files) {
    if (!files.length || !this.#conversation) return;
    if (!offer.hasFiles) return this.#actions.say("This server takes no files.");
    if (this.posting.isForbidden) return this.#actions.say(this.posting.reason);
    if (this.#edited) return this.#actions.say("No file can be added to a message that was sent: end the edit first.");
    if (files.length > AT_ONCE) this.#actions.say(`${AT_ONCE} files at most at once: the others were left out.`);
    for (const blob of files.slice(0, AT_ONCE)) {
      const name = blob.name || "picture.png";
      const item = { blob, name, sent: 0, stored: null, error: null, abort: null, preview: blob.type.startsWith("image/") ? URL.createObjectURL(blob) : null };
      this.files.push(item);
      if (blob.size > offer.maxUploadBytes) item.error = `It is larger than ${sizeOf(offer.maxUploadBytes)}.`;
      else if (!blob.size) item.error = "It is empty.";
      else item.ready = this.#upload(item);
    }
    this.#paint();
    this.focus();
  }

  /** @returns {Promise<boolean>} whether it is there */
  async #upload(item) {
    item.abort = new AbortController();
    item.error = null;
    const { files } = this;
    this.#actions.onUploads(1);
    try {
      item.stored = await this.#chat.files.upload(item.blob, {
        name: item.name,
        signal: item.abort.signal,
        onProgress: (sent, size) => {
          item.sent = size ? sent / size : 1;
          if (files === this.files) this.#paintProgress(item);
        },
      });
      if (item.preview) this.#pictures.keep(item.stored.id, item.blob);
      return true;
    } catch (error) {
      item.error = error.code === "aborted" ? "Cancelled" : error.code === "unsupported_media_type" ? "Files of this kind are not taken here." : error.message;
      return false;
    } finally {
      this.#actions.onUploads(-1);
      if (files === this.files) this.#paintTray();
    }
  }

  #removeFile(item) {
    item.abort?.abort();
    const at = this.files.indexOf(item);
    if (at >= 0) this.files.splice(at, 1);
    item.isRemoved = true;
    if (item.preview) URL.revokeObjectURL(item.preview);
    this.#paint();
    this.focus();
  }

  /**
   * Send them one after the other, as soon as each is there; the text goes with the first. Until then they are seen where
   * they were added, with how far they have got; those that fail stay there.
   */
  async #submitFiles(conversation, text, replyToId) {
    const { files } = this; // of this conversation, also when another one is open
    const items = files.filter(({ error, isLeaving }) => !error && !isLeaving);
    for (const item of items) item.isLeaving = true;
    let said = text;
    for (const item of items) {
      const isThere = await item.ready;
      item.isLeaving = false;
      if (isThere && !item.isRemoved && !conversation.isGone) {
        files.splice(files.indexOf(item), 1);
        this.#send(conversation, said, { type: item.stored.contentType.startsWith("image/") ? "Image" : "File", fileId: item.stored.id, replyToId });
        said = "";
        replyToId = undefined;
      }
      if (files === this.files) this.#paint();
    }
    if (said && !conversation.isGone) this.#send(conversation, said, { replyToId });
  }

  // -- paint ------------------------------------------------------------------------------------------------------

  #paint() {
    const hadFocus = this.row.contains(document.activeElement);
    this.row.hidden = this.posting.isForbidden && !this.#edited; // one's own is edited all the same
    if (hadFocus && this.row.hidden) this.#actions.onForbidden();
    this.#paintContext();
    this.#paintTray();
    this.#paintNote();
    this.#fit();
  }

  #paintContext() {
    const message = this.#edited ?? this.#reply;
    this.context.hidden = !message;
    this.element.classList.toggle("editing", Boolean(this.#edited));
    if (!message) return replace(this.context);
    const what = this.#edited ? "Editing" : "Replying to ";
    replace(this.context, h("span", { class: "context-icon", "aria-hidden": true }, icon(this.#edited ? "edit" : "reply")),
      h("span", { class: "context-text" }, h("strong", {}, what, this.#edited ? "" : h("bdi", { text: message.isOwn ? "yourself" : this.#people.nameOf(message.senderId) })), " ", h("span", { dir: "auto", text: summaryOf(message, this.#people) })),
      iconButton("close", this.#edited ? "Stop editing" : "Do not reply", () => {
        if (this.#edited) this.#leaveEdit();
        this.#reply = null;
        this.#paint();
        this.focus();
      }));
  }

  #paintTray() {
    this.tray.hidden = !this.files.length;
    replace(this.tray, this.files.map((item) => {
      item.bar = h("progress", { max: 1, value: item.stored ? 1 : item.sent, "aria-label": `Upload of ${fileName(item.name)}` });
      return h("li", { class: `tray-item${item.error ? " failed" : ""}` },
        item.preview ? h("img", { src: item.preview, alt: "" }) : h("span", { class: "file-icon", "aria-hidden": true }, icon("file")),
        h("span", { class: "file-text" }, h("bdi", { class: "file-name", text: fileName(item.name) }),
          item.error ? h("small", { class: "trouble", text: item.error }) : h("small", { text: item.stored ? sizeOf(item.blob.size) : `${item.isLeaving ? "Is sent when it is there" : "Uploading"} · ${sizeOf(item.blob.size)}` }),
          !item.error && !item.stored && item.bar),
        item.error && item.ready && h("button", { type: "button", class: "link", text: "Again", on: { click: () => { item.ready = this.#upload(item); this.#paintTray(); } } }),
        iconButton("close", `Remove ${fileName(item.name)}`, () => this.#removeFile(item)));
    }));
    this.#paintButton();
  }

  #paintButton() {
    this.button.classList.toggle("ready", Boolean(this.input.value.trim() || this.files.some(({ isLeaving, error }) => !isLeaving && !error)));
  }

  #paintProgress(item) {
    if (item.bar) item.bar.value = item.sent;
  }

  #paintNote() {
    const bytes = this.input.value.length * 3 < offer.maxMessageBytes * WARN_AT ? 0 : encoder.encode(this.input.value.trim()).length;
    const isTooLong = bytes > offer.maxMessageBytes;
    this.note.classList.toggle("problem", isTooLong);
    setText(this.note, isTooLong ? `Too long: ${sizeOf(bytes)} of ${sizeOf(offer.maxMessageBytes)}.` : bytes > offer.maxMessageBytes * WARN_AT ? `${sizeOf(offer.maxMessageBytes - bytes)} left` : "");
  }
}
