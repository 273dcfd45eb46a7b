/**
 * The page: who is signed in, and then the chat. Owns the one chat of this tab, from its beginning to its end.
 * @module
 */
import { IndexedDBStore } from "./client/stores/indexed-db.js";
import { Chat } from "./client/chat.js";
import { ParleyError } from "./client/errors.js";
import { ChatView } from "./chat-view.js";
import { h, replace } from "./dom.js";
import { comeBack, forget, onOtherTab, signOut, stored, token, tokenOtherThan, userOfToken } from "./session.js";
import { showSignIn } from "./sign-in.js";
import { applyTheme } from "./theme.js";

const root = document.querySelector("#app");
const NOTICES = {
  unauthenticated: "You were signed out. Sign in again.",
  forbidden: "This account cannot be used here any more.",
};

// Without TLS browsers keep this to themselves; the client library names messages by it.
crypto.randomUUID ??= () => {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  return Array.from(bytes, (byte, index) => ([4, 6, 8, 10].includes(index) ? "-" : "") + byte.toString(16).padStart(2, "0")).join("");
};

/** @type {{close: () => void} | null} */
let running = null;

async function begin(notice = "") {
  running?.close();
  running = null;
  if (!stored()) return showSignIn({ root, notice, onSession: () => begin() });
  const stop = new AbortController();
  let view = null;
  let isOver = false;
  running = { close: () => ((isOver = true), stop.abort(), view?.close()) };
  splash("Connecting …");
  const out = h("button", { type: "button", class: "link", text: "Sign out", on: { click: () => (forget(), begin()) } });
  const slow = setTimeout(() => !view && splash("Connecting … The server does not answer yet. It is tried again and again.", out), 4000);
  try {
    const me = await whoAmI(stop.signal);
    const store = new IndexedDBStore(`parley-${me.id}`);
    const chat = await new Chat({ url: location.origin, token, store }).start(stop.signal);
    clearTimeout(slow);
    if (isOver) return;
    view = new ChatView({ chat, me, root, onSignOut: () => leave(me) });
    chat.on("state", ({ state, reason }) => state === "closed" && !isOver && onEnd(reason));
    if (chat.state === "closed") onEnd(chat.reason);
  } catch (error) {
    clearTimeout(slow);
    if (!isOver) onEnd(error);
  }
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
        localStorage.setItem("parley.me", JSON.stringify(account));
        return account;
      }
      if (response.status === 401 && refused) throw new ParleyError("unauthenticated", "The server does not take this session.");
      if (response.status === 401) {
        refused = accessToken;
        continue;
      }
    } catch (error) {
      if (signal.aborted || error.code === "unauthenticated") throw error;
    }
    const known = JSON.parse(localStorage.getItem("parley.me") ?? "null");
    if (known && known.id === userOfToken(stored()?.accessToken)) return known;
    await new Promise((resolve) => setTimeout(resolve, pause));
  }
}

function onEnd(reason) {
  if (reason?.code === "aborted") return;
  if (NOTICES[reason?.code]) {
    forget();
    return void begin(NOTICES[reason.code]);
  }
  running?.close();
  running = null;
  splash(`The chat has ended: ${reason?.message ?? "for no known reason"}`, h("button", { type: "button", class: "primary", text: "Connect again", on: { click: () => begin() } }));
}

/** Nothing of this person stays in this browser. */
async function leave(me) {
  running?.close();
  running = null;
  await signOut();
  for (const key of Object.keys(localStorage)) if (key.startsWith("parley.draft/") || key === "parley.me") localStorage.removeItem(key);
  indexedDB.deleteDatabase(`parley-${me.id}`);
  history.replaceState(null, "", "/");
  void begin("You have signed out.");
}

function splash(text, ...more) {
  replace(root, h("main", { class: "splash" }, h("span", { class: "brand large", "aria-hidden": true }), h("p", { role: "status", text }), more));
}

applyTheme();
onOtherTab(() => begin("You were signed out in another tab."));
try {
  await comeBack();
  void begin();
} catch (error) {
  void begin(error.message);
}
