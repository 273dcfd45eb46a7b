/**
 * What text looks like: times, sizes, names, and the content of messages with links and code in it.
 * @module
 */
import { h } from "./dom.js";

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const weekday = new Intl.DateTimeFormat(undefined, { weekday: "long" });
const shortWeekday = new Intl.DateTimeFormat(undefined, { weekday: "short" });
const date = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });
const fullDate = new Intl.DateTimeFormat(undefined, { weekday: "long", day: "numeric", month: "long", year: "numeric" });
const whole = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "medium" });
const dateTime = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
const decimal = new Intl.NumberFormat(undefined, { maximumFractionDigits: 1 });

const DAY = 86_400_000;

export const timeOf = (when) => clock.format(new Date(when));
export const momentOf = (when) => whole.format(new Date(when));
export const dateTimeOf = (when) => dateTime.format(new Date(when));
export const dayKey = (when) => new Date(when).toDateString();

function daysAgo(when) {
  const [then, today] = [new Date(when), new Date()].map((each) => Date.UTC(each.getFullYear(), each.getMonth(), each.getDate()));
  return (today - then) / DAY; // by the calendar: days of 23 and 25 hours are days
}

/** For the line between two days. */
export function dayOf(when) {
  const ago = daysAgo(when);
  if (ago <= 0) return "Today";
  if (ago === 1) return "Yesterday";
  return ago < 7 ? weekday.format(new Date(when)) : fullDate.format(new Date(when));
}

/** For a list: the time of today, else the day. */
export function shortTime(when) {
  const ago = daysAgo(when);
  if (ago <= 0) return timeOf(when);
  if (ago === 1) return "Yesterday";
  return ago < 7 ? shortWeekday.format(new Date(when)) : date.format(new Date(when));
}

export function agoOf(when) {
  const minutes = Math.round((Date.now() - new Date(when)) / 60_000);
  if (minutes < 1) return "just now";
  if (minutes < 60) return `${minutes} min ago`;
  if (minutes < 24 * 60) return `${Math.round(minutes / 60)} h ago`;
  return shortTime(when);
}

export function sizeOf(bytes) {
  if (bytes < 1024) return `${bytes} B`;
  if (bytes < 1024 ** 2) return `${decimal.format(bytes / 1024)} KiB`;
  if (bytes < 1024 ** 3) return `${decimal.format(bytes / 1024 ** 2)} MiB`;
  return `${decimal.format(bytes / 1024 ** 3)} GiB`;
}

/** Until when something is so, to stand behind a sentence; of what is for good, nothing. */
export const untilOf = (when, word = " until ") => (!when || new Date(when).getUTCFullYear() >= 9999 ? "" : word + dateTimeOf(when));

/** So many seconds, in words. */
export function durationOf(seconds) {
  const units = [[Math.floor(seconds / 3600), "hour"], [Math.floor(seconds / 60) % 60, "minute"], [seconds % 60, "second"]];
  return units.filter(([count]) => count).map(([count, unit]) => plural(count, unit)).join(" ") || plural(0, "second");
}

export const plural = (count, one, many = `${one}s`) => `${count} ${count === 1 ? one : many}`;

/** The first letters of a name, for a picture of somebody who has none. */
export function initials(name) {
  const words = name.trim().split(/[\s._@+-]+/u).filter(Boolean);
  const first = words.map((word) => /[\p{L}\p{N}\p{Extended_Pictographic}]/u.exec(word)?.[0]).filter(Boolean);
  return (first.length > 1 ? first[0] + first.at(-1) : (first[0] ?? "?")).toLocaleUpperCase();
}

/** A name inside of a sentence: whichever way it is written, it does not turn the rest round. */
export const isolated = (name) => `\u2068${name}\u2069`;

/** One of the hues of the style sheet, the same for the same id everywhere. */
export function hueOf(id) {
  let sum = 0;
  for (let index = 0; index < id.length; index++) sum = (sum * 31 + id.charCodeAt(index)) >>> 0;
  return sum % 12;
}

/** A name of a file with what could make it look like another one shown: controls and marks of direction. */
export const fileName = (name) => name.replace(/[\p{Cc}\u061c\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]/gu, "\ufffd");

const LINK = /\bhttps?:\/\/[^\s<>"'`\u2028\u2029\u202a-\u202e\u2066-\u2069]{1,2048}/giu;
const FENCE = /```(?:[\w+#.-]{0,20}\n)?([^]*?)```/g; // after which the name of a language may stand
const CODE = /`([^`\n]+)`/g;
const ONLY_EMOJI = /^(?:\p{Extended_Pictographic}|\p{Emoji_Modifier}|\p{Regional_Indicator}|[\u200d\ufe0f\s])+$/u;

export const isOnlyEmoji = (text) => text.length <= 48 && /\S/.test(text) && ONLY_EMOJI.test(text);

/** A pattern for these names behind an @, the longest first; null where there are none. */
export function mentionOf(names) {
  const found = names.filter(Boolean).sort((one, other) => other.length - one.length).map((name) => name.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&"));
  return found.length ? new RegExp(`(?<![\\p{L}\\p{N}_])@(?:${found.join("|")})(?![\\p{L}\\p{N}_])`, "iu") : null;
}

/**
 * The nodes that show a message: text, with links to click, code and mentions set apart. Nothing of it becomes markup.
 * @param {string} text
 * @param {RegExp | null} [mention] of `mentionOf`
 */
export function formatted(text, mention = null) {
  const nodes = [];
  const every = mention && new RegExp(mention.source, "giu");
  split(text, FENCE, (plain) => inline(plain.replace(/^\n|\n$/g, ""), nodes, every), ([, code]) => {
    nodes.push(h("pre", { dir: "ltr", tabindex: 0, role: "group", "aria-label": "Code" }, h("code", { text: code.replace(/\n$/, "") })));
  });
  return nodes;
}

function inline(text, nodes, mention) {
  split(text, CODE, (plain) => linked(plain, nodes, mention), ([, code]) => nodes.push(h("code", { dir: "ltr", text: code })));
}

function linked(text, nodes, mention) {
  split(text, LINK, (plain) => mentioning(plain, nodes, mention), ([found]) => {
    const [address, rest] = trimmed(found);
    nodes.push(safeLink(address) ?? address);
    if (rest) nodes.push(rest);
  });
}

function mentioning(text, nodes, mention) {
  if (!mention) return void (text && nodes.push(text));
  split(text, mention, (plain) => plain && nodes.push(plain), ([found]) => nodes.push(h("bdi", { class: "mention", text: found })));
}

/** A link to another site, which learns nothing of this one; null when the address is none. */
export function safeLink(address, text = address) {
  let url;
  try {
    url = new URL(address);
  } catch {
    return null;
  }
  if ((url.protocol !== "https:" && url.protocol !== "http:") || url.username || url.password) return null;
  return h("a", { href: url.href, target: "_blank", rel: "noopener noreferrer nofollow", dir: "ltr", text });
}

/** A sentence's punctuation is no part of an address, and a bracket only if it was opened there. */
function trimmed(found) {
  let end = found.length;
  let unopened = found.split(")").length - found.split("(").length;
  for (;;) {
    const last = found[end - 1];
    if (/[.,:;!?*_~]/.test(last)) end--;
    else if (last === ")" && unopened > 0) {
      end--;
      unopened--;
    } else return [found.slice(0, end), found.slice(end)];
  }
}

function split(text, pattern, onText, onMatch) {
  let end = 0;
  for (const match of text.matchAll(pattern)) {
    onText(text.slice(end, match.index));
    onMatch(match);
    end = match.index + match[0].length;
  }
  onText(text.slice(end));
}
