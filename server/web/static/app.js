/**
 * The page: who is signed in, and then the chat. Owns the one chat of this tab, from its beginning to its end.
 * @module
 */
import { IndexedDBStore } from "./client/stores/indexed-db.js";
import { Chat } from "./client/chat.js";
import { ParleyError } from "./client/errors.js";
import { keyOf } from "./client/persistence.js";
import { sleep } from "./client/waiting.js";
import { ChatView } from "./chat-view.js";
import { h, replace } from "./dom.js";
import { forgetDrafts } from "./drafts.js";
import { explained } from "./explained.js";
import { comeBack, onOtherTab, signOut, stored, token, tokenOtherThan, userOfToken, whySignedOut } from "./session.js";
import { showSignIn } from "./sign-in.js";
import { plural } from "./text.js";
import { applyTheme } from "./theme.js";

const root = document.querySelector("#app");
sessionStorage.removeItem("parley.loads"); // boot.js: all of the page is there
const NOTICES = {
  unauthenticated: "You were signed out.",
  forbidden: "This account cannot be used here any more.",
  banned: "You were signed out.",
};
const ACCOUNT = "parley.me";
const OF_PERSON = [ACCOUNT, "parley.notify"]; // what of localStorage is not the browser's

const databaseOf = (userId) => `parley-${userId}`;

// Without TLS browsers keep this to themselves; the client library names messages by it.
crypto.randomUUID ??= () => {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  return Array.from(bytes, (byte, index) => ([4, 6, 8, 10].includes(index) ? "-" : "") + byte.toString(16).padStart(2, "0")).join("");
};

/** @type {{userId: string | null, close: () => Promise<void>} | null} */
let running = null;

/** End what runs, if anything does. Done when it has written all that it will ever write. */
async function end() {
  const before = running;
  running = null;
  await before?.close();
}

async function begin(notice = "") {
  void end();
  if (!stored()) return showSignIn({ root, notice, onSession: () => begin() });
  const stop = new AbortController();
  let view = null;
  let chat = null;
  let isOver = false;
  const userId = userOfToken(stored().accessToken);
  running = { userId, close: () => ((isOver = true), view?.close(), stop.abort(), starting.then(() => chat?.close())) };
  splash("Connecting …");
  const slow = setTimeout(() => !view && splash("Connecting … The server does not answer yet. Trying again …", button("link", "Sign out", () => leave(userId))), 4000);
  const start = async () => {
    const me = await whoAmI(stop.signal);
    chat = new Chat({ url: location.origin, token, store: new IndexedDBStore(databaseOf(me.id)) });
    await chat.start(stop.signal);
    clearTimeout(slow);
    if (isOver) return;
    view = new ChatView({ chat, me, root, onSignOut: () => leave(me.id) });
    chat.on("state", ({ state, reason }) => state === "closed" && !isOver && onEnd(reason, userId, chat.pendingCount));
    if (chat.state === "closed") void onEnd(chat.reason, userId, chat.pendingCount);
  };
  const starting = start().catch((error) => {
    clearTimeout(slow);
    if (!isOver) void onEnd(error, userId, chat?.pendingCount ?? 0);
  });
}

/** One's own account: that of the last visit at once, and as it is now when the server has said it. */
async function whoAmI(signal) {
  let refused = "";
  for (let pause = 500; ; pause = Math.min(pause * 2, 10_000)) {
    try {
      const accessToken = await tokenOtherThan(refused);
      const response = await fetch("/api/users/me", { headers: { Authorization: `Bearer ${accessToken}` }, cache: "no-store", signal });
      if (response.ok) {
        const account = await response.json();
        localStorage.setItem(ACCOUNT, JSON.stringify(account));
        return account;
      }
      if (response.status === 403) {
        const { code, detail, until } = await response.json();
        if (code === "banned") throw new ParleyError(code, detail, { until });
      }
      if (response.status === 401 && refused) throw new ParleyError("unauthenticated", "The server does not take this session.");
      if (response.status === 401) {
        refused = accessToken;
        continue;
      }
    } catch (error) {
      if (signal.aborted || error.code === "unauthenticated" || error.code === "banned") throw error;
    }
    const known = knownAccount();
    if (known && known.id === userOfToken(stored()?.accessToken)) return known;
    await sleep(pause, signal);
  }
}

function knownAccount() {
  try {
    return JSON.parse(localStorage.getItem(ACCOUNT));
  } catch {
    return null;
  }
}

async function onEnd(reason, userId, pending) {
  if (reason?.code === "aborted") return;
  const ended = end();
  const unsent = pending ? ` ${plural(pending, "message is", "messages are")} not sent: what you have written is kept here until you ` : "";
  if (!NOTICES[reason?.code]) return stopped(reason, unsent, userId);
  if (stored() && userOfToken(stored().accessToken) !== userId) return begin(); // somebody else has signed in meanwhile
  if (!stored() && reason.code === "unauthenticated") return signedOutElsewhere(userId, ended);
  splash("The connection was ended …");
  const why = reason.code === "forbidden" || reason.until ? reason : await whySignedOut();
  if (running) return; // another tab was faster
  if (!why && reason.code === "unauthenticated") return stopped(reason, unsent, userId);
  void signOut();
  void begin(`${NOTICES[reason.code]} ${explained(why ?? reason)}${unsent && `${unsent}sign in again.`}`);
  await ended;
  await clearHistory(userId);
}

/** There is no chat, but who is signed in still is: so it is when an operator has ended the connections. */
function stopped(reason, unsent, userId) {
  splash(`The chat has ended: ${reason?.message ?? "for no known reason"}${unsent && `${unsent}connect again.`}`,
    button("primary", "Connect again", () => begin()), button("link", "Sign out", () => leave(userId)));
}

/** Nothing of this person stays in this browser. */
async function leave(userId) {
  const ended = end();
  splash("Signing out …");
  const isOver = await signOut();
  await ended;
  for (const key of OF_PERSON) localStorage.removeItem(key);
  forgetDrafts(userId);
  indexedDB.deleteDatabase(databaseOf(userId));
  history.replaceState(null, "", "/");
  void begin(isOver ? "You have signed out." : "You have signed out of this browser. The server could not be reached: there the session lasts until it ends by itself, or you end it under “Signed in” in the settings.");
}

/** Of somebody who was signed out nothing stays that could be read; what they have not sent yet waits for them. */
async function clearHistory(userId) {
  localStorage.removeItem(ACCOUNT);
  try {
    const store = new IndexedDBStore(databaseOf(userId));
    const keys = [...(await store.load()).keys()];
    const isUnsent = (key) => key.startsWith(keyOf.draft(""));
    if (keys.some(isUnsent)) await store.write(new Map(keys.filter((key) => !isUnsent(key) && key !== "meta").map((key) => [key, null])));
    else indexedDB.deleteDatabase(databaseOf(userId));
  } catch {
    indexedDB.deleteDatabase(databaseOf(userId));
  }
}

/** Another tab says so, or has ended the session before that was heard. */
async function signedOutElsewhere(userId = running?.userId, ended = end()) {
  void begin("You were signed out in another tab.");
  await ended;
  if (userId && userOfToken(stored()?.accessToken) !== userId) await clearHistory(userId); // this tab may have written later than that one has cleared
}

function splash(text, ...more) {
  replace(root, h("main", { class: "splash" }, h("h1", { class: "hidden-text", text: "Parley" }), h("span", { class: "brand large", "aria-hidden": true }), h("p", { role: "status", text }), more));
}

function button(kind, text, onClick) {
  return h("button", { type: "button", class: kind, text, on: { click: onClick } });
}

applyTheme();
onOtherTab(() => void signedOutElsewhere());
try {
  await comeBack();
  void begin();
} catch (error) {
  void begin(error.message);
}
