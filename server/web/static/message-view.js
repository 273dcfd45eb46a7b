/**
 * One message as it is shown: who, when, what, how far it has got. Rebuilt when it is another one; while it is the same
 * and only its receipts have risen, only the marks change.
 * @module
 */
import { h, icon, replace, set } from "./dom.js";
import { explained } from "./explained.js";
import { mentionsOf } from "./mentions.js";
import { avatar } from "./people.js";
import { dayKey, dayOf, fileName, formatted, isOnlyEmoji, isolated, momentOf, plural, shortTime, sizeOf, timeOf, untilOf } from "./text.js";

const TOGETHER = 5 * 60_000; // ms within which messages of one person stand under one name
const LONG = 1800; // characters, or
const MANY_LINES = 24; // lines, from which on a message is shown shortened
const PICTURE = { width: 380, height: 320 };
const SHOWN_AS_PICTURE = /^image\/(png|jpeg|gif|webp|avif)$/;

const MARKS = {
  pending: ["clock", "Waiting to be sent"],
  failed: ["error", "Not sent"],
  sent: ["check", "Sent"],
  delivered: ["checks", "Delivered"],
  read: ["checks", "Read"],
};

/** A row of the list: a message, and what of it depends on the one before. */
export function rowOf(message, previous, isFirstUnread) {
  const isNewDay = !previous || dayKey(previous.createdAt) !== dayKey(message.createdAt);
  const hasHead = isNewDay || isFirstUnread || previous.type === "System" || previous.senderId !== message.senderId ||
    new Date(message.createdAt) - new Date(previous.createdAt) > TOGETHER;
  return { key: message.key, message, previous, isNewDay, isFirstUnread, hasHead: hasHead && message.type !== "System", height: 0, isMeasured: false };
}

/** How high it may be, until it is measured. */
export function guess({ message, hasHead, isNewDay, isFirstUnread }, width) {
  const perLine = Math.max(20, (width - 120) / 7.4);
  let lines = 0;
  for (const line of message.content.slice(0, LONG).split("\n", MANY_LINES)) lines += Math.max(1, Math.ceil(line.length / perLine));
  let height = 6 + lines * 22 + (hasHead ? 28 : 0) + (isNewDay ? 44 : 0) + (isFirstUnread ? 32 : 0) + (message.replyToId ? 30 : 0);
  if (message.reactions.length) height += 34;
  if (message.pinnedAt) height += 20;
  if (message.thread || message.threadId) height += 30;
  if (message.file) height += SHOWN_AS_PICTURE.test(message.file.contentType) ? boxOf(message.file).height + 8 : 64;
  return height;
}

/**
 * Fill an article with what the row says.
 * @param context `people`, `conversation`, `original(id)`, `files`, `onJump`, `onExpand`, `expanded`, `onReact`, `onThread` where threads are led to
 */
export function fill(article, row, context) {
  const { message } = row;
  const parts = [];
  if (row.isNewDay) parts.push(h("h2", { class: "day" }, h("span", { text: dayOf(message.createdAt) })));
  if (row.isFirstUnread) parts.push(h("p", { class: "unread-line" }, h("span", { text: "New" })));
  if (message.type === "System") {
    article.className = "message system";
    parts.push(h("p", { class: "system-text", title: momentOf(message.createdAt) }, systemText(message, context.people)));
  } else {
    article.className = `message${message.isOwn ? " own" : ""}${row.hasHead ? " head" : ""}${message.status === "failed" ? " failed" : ""}${message.isMention ? " mentioned" : ""}`;
    parts.push(row.hasHead ? head(row, context) : h("time", { class: "gutter-time", dateTime: message.createdAt, title: momentOf(message.createdAt), text: timeOf(message.createdAt) }));
    parts.push(h("div", { class: "message-body" }, quote(message, context), content(message, context), file(message, context), reactions(message, context), pinned(message), thread(message, context), trouble(message)));
    if (message.isOwn && !message.deletedAt) parts.push(mark(message, context));
  }
  replace(article, ...parts);
  set(article, { "aria-label": labelOf(message, context.people) });
}

/** Only the receipts are others: change the mark and nothing else. Returns false if it has to be filled anew. */
export function remark(article, before, message, context) {
  const shown = article.querySelector(":scope > .mark");
  const isSame = before.changedSeq === message.changedSeq && before.content === message.content && before.id === message.id;
  if (!isSame || !shown || message.status === "failed" || before.status === "failed") return false;
  shown.replaceWith(mark(message, context));
  set(article, { "aria-label": labelOf(message, context.people) });
  return true;
}

function labelOf(message, people) {
  if (message.type === "System") return textOfSystem(message, people);
  const name = message.isOwn ? "You" : people.nameOf(message.senderId);
  const status = message.isOwn && !message.deletedAt ? `, ${MARKS[message.status][1].toLowerCase()}` : "";
  const mention = message.isMention && !message.deletedAt ? ", mentions you" : "";
  return `${name}, ${timeOf(message.createdAt)}${mention}${message.editedAt && !message.deletedAt ? ", edited" : ""}${status}`;
}

function head({ message }, { people }) {
  const name = people.nameOf(message.senderId);
  return [
    avatar(name, message.senderId),
    h("div", { class: "message-head" },
      h("bdi", { class: `name hue-text`, text: name }),
      h("time", { dateTime: message.createdAt, title: momentOf(message.createdAt), text: timeOf(message.createdAt) })),
  ];
}

function content(message, { expanded, onExpand, people }) {
  if (message.deletedAt) return h("p", { class: "deleted", text: "This message was deleted." });
  const text = message.content;
  if (!text) return null;
  if (message.type === "Emoji" || isOnlyEmoji(text)) return h("p", { class: "content emoji", dir: "auto", text });
  const isLong = text.length > LONG || text.split("\n", MANY_LINES + 1).length > MANY_LINES;
  const isCut = isLong && !expanded.has(message.key);
  const edited = message.editedAt ? h("small", { class: "edited", dir: "ltr", title: momentOf(message.editedAt), text: " (edited)" }) : null;
  const shown = h("div", { class: `content${isCut ? " cut" : ""}`, dir: "auto" }, formatted(isCut ? shortened(text) : text, mentionsOf(message, people)), edited);
  if (!isLong) return shown;
  return [shown, h("button", { type: "button", class: "link", text: isCut ? "Show all of it" : "Show less", "aria-expanded": String(!isCut), on: { click: () => onExpand(message.key) } })];
}

const shortened = (text) => text.slice(0, LONG).split("\n").slice(0, MANY_LINES).join("\n");

/** What one has written oneself, also to a picture or a file. */
export const mayEdit = ({ isOwn, seq, deletedAt, type, content }) => isOwn && seq > 0 && !deletedAt && type !== "System" && Boolean(content);

/** One line about a message, for lists, quotes and notifications. */
export function summaryOf(message, people) {
  if (message.deletedAt) return "Message deleted";
  if (message.type === "System") return textOfSystem(message, people);
  if (/\S/u.test(message.content)) return message.content.trim().slice(0, 300).replace(/\s+/gu, " ");
  if (message.file) return SHOWN_AS_PICTURE.test(message.file.contentType) ? "Picture" : fileName(message.file.name);
  return message.type === "Image" || message.type === "File" ? "File" : "";
}

function quote(message, { people, original, onJump }) {
  if (!message.replyToId || message.deletedAt) return null;
  const found = original(message.replyToId);
  const name = found ? people.nameOf(found.senderId) : "";
  const text = found ? summaryOf(found, people) : found === null ? "This message cannot be read any more" : "…";
  return h("button", { type: "button", class: "quote", disabled: found === null, on: { click: () => onJump(message.replyToId) } },
    h("span", { class: "hidden-text", text: "In reply to " }), h("bdi", { class: "quote-name", text: name }), h("span", { class: "quote-text", dir: "auto", text }));
}

function boxOf({ width, height }) {
  if (!width || !height) return { width: 240, height: 180 };
  const scale = Math.min(1, PICTURE.width / width, PICTURE.height / height);
  return { width: Math.max(48, Math.round(width * scale)), height: Math.max(32, Math.round(height * scale)) };
}

function file(message, { files }) {
  const { file: found, deletedAt, type } = message;
  if (deletedAt) return null;
  if (!found) return type === "Image" || type === "File" ? (message.status === "pending" ? null : h("p", { class: "deleted", text: "The file was deleted." })) : null;
  const name = fileName(found.name);
  if (SHOWN_AS_PICTURE.test(found.contentType)) {
    const box = boxOf(found);
    const picture = h("img", { alt: name, width: box.width, height: box.height, decoding: "async" });
    const button = h("button", { type: "button", class: "picture", "aria-label": `Picture ${name}, show it large`, on: { click: () => files.show(found, message) } }, picture);
    button.style.setProperty("width", `${box.width}px`);
    button.style.setProperty("aspect-ratio", `${box.width} / ${box.height}`);
    files.paint(picture, found);
    return button;
  }
  return h("div", { class: "file" }, h("span", { class: "file-icon", "aria-hidden": true }, icon("file")),
    h("span", { class: "file-text" }, h("bdi", { class: "file-name", text: name }), h("small", { text: `${sizeOf(found.size)} · ${found.contentType}` })),
    h("button", { type: "button", class: "icon-button", "aria-label": `Save ${name}`, title: "Save", on: { click: () => files.save(found) } }, icon("download")));
}

/** Each kind with its count. Whether one's own is among many is known of the first ten only: pressing it puts it there. */
function pinned(message) {
  return message.pinnedAt ? h("small", { class: "pinned", title: momentOf(message.pinnedAt), text: "Pinned" }) : null;
}

function reactions(message, { people, onReact }) {
  if (message.deletedAt || !message.reactions.length) return null;
  return h("div", { class: "reactions" }, message.reactions.map(({ emoji, count, userIds }) => {
    const isMine = userIds.includes(people.me.id);
    const names = userIds.map((id) => (id === people.me.id ? "you" : people.nameOf(id)));
    const who = count > names.length ? `${names.join(", ")} and ${count - names.length} more` : names.join(", ");
    return h("button", { type: "button", class: "reaction", "aria-pressed": String(isMine), "aria-label": `${emoji} ${count}, ${who}`, title: who, data: { focus: `r-${message.key}-${emoji}` }, on: { click: () => onReact(message, emoji, !isMine) } },
      h("span", { text: emoji }), " ", h("span", { class: "count", text: count }));
  }));
}

/** What leads to a thread: how many replies are in it, or that this is one of them. */
function thread(message, { onThread }) {
  if (!onThread || (!message.thread && !message.threadId)) return null;
  const { replyCount, lastReplyAt } = message.thread ?? {};
  const parts = replyCount ? [h("strong", { text: plural(replyCount, "reply", "replies") }), h("small", { title: momentOf(lastReplyAt), text: ` last ${shortTime(lastReplyAt)}` })] : h("small", { text: "Replied in a thread" });
  return h("button", { type: "button", class: "thread-line", data: { focus: `t-${message.key}` }, on: { click: () => onThread(message) } }, parts);
}

const REASONS = {
  not_found: "This conversation or the message you replied to is gone.",
  forbidden: "You may not write here.",
  too_large: "It is too long.",
  gone: "The message that began this thread was deleted.",
  invalid_content: "There is nothing to see in it.",
};

function trouble(message) {
  if (message.status !== "failed") return null;
  const reason = REASONS[message.error?.code] ?? (message.error ? explained(message.error) : "");
  return h("p", { class: "trouble" }, h("span", { text: `Not sent. ${reason} ` }),
    h("button", { type: "button", class: "link", text: "Try again", on: { click: () => message.retry() } }), " ",
    h("button", { type: "button", class: "link", text: "Discard", on: { click: () => message.discard() } }));
}

function mark(message) {
  const [name, label] = MARKS[message.status];
  return h("span", { class: `mark ${message.status}`, role: "img", "aria-label": label, title: label }, icon(name));
}

// -- what has happened to a conversation ----------------------------------------------------------------------------

function systemParts(message, people) {
  const said = message.system ?? {};
  const isMe = (id) => id === people.me.id;
  const who = (id, start) => (isMe(id) ? (start ? "You" : "you") : people.nameOf(id));
  const by = who(said.by, true);
  const whom = who(said.userId, false);
  switch (said.event) {
    case "conversationCreated": return [by, " started this conversation"];
    case "memberAdded": return said.by === said.userId ? [by, " joined"] : [by, " added ", whom];
    case "memberRemoved": return said.by === said.userId ? [by, " left"] : [by, " removed ", whom, ...(said.until ? [untilOf(said.until, ", who cannot come back before ") || ", for good"] : [])];
    case "memberMuted": return [by, " muted ", whom, untilOf(said.until)];
    case "memberUnmuted": return [by, " ended the mute of ", whom];
    case "roleChanged": return [by, " made ", whom, said.role === "Member" ? " a member" : said.role === "Admin" ? " an admin" : " an owner"];
    case "titleChanged": return [by, " named this conversation ", `“${said.name}”`];
    case "detailsChanged": return [by, " changed the details of this conversation"];
    case "conversationDeleted": return [by, " deleted this conversation"];
    default: return ["Something has changed here"];
  }
}

const textOfSystem = (message, people) => systemParts(message, people).map((part, index) => (index % 2 ? part : isolated(part))).join("");
const systemText = (message, people) => systemParts(message, people).map((part, index) => (index % 2 ? part : h("bdi", { text: part })));
