/**
 * What each store has to do, wherever it is: run by Node for those that are there, and by a page in a browser for
 * IndexedDB and the real `localStorage` (tests/web/stores.mjs). Needs nothing of Node.
 */
import { Parley } from "../src/index.js";
import { tokenOf } from "./fake-server.js";

export function equal(found, wanted, what) {
  if (JSON.stringify(found) !== JSON.stringify(wanted)) throw new Error(`${what}: ${JSON.stringify(found)}, not ${JSON.stringify(wanted)}`);
}

export const entriesOf = async (store) => [...(await store.load())].sort(([one], [other]) => (one < other ? -1 : 1));

/**
 * @param {() => import("../src/stores/store.js").Store} open another object for the same entries
 * @param {{isShared?: boolean}} [options] whether several of these objects may write at the same time
 */
export async function keepsTheContract(open, { isShared = true } = {}) {
  const store = open();
  equal(await entriesOf(store), [], "a new store");
  const value = { text: "ü \u2028 \u0000", list: [1, null, { a: true }], none: null };
  await store.write(new Map([["a", value], ["b", 1], ["c", 2]]));
  equal(await entriesOf(open()), [["a", value], ["b", 1], ["c", 2]], "what was written");
  await store.write(new Map([["b", null], ["c", 3], ["never", null]]));
  equal(await entriesOf(open()), [["a", value], ["c", 3]], "what was changed");
  const broken = {
    get text() {
      throw new Error("This cannot be kept.");
    },
  };
  let error = null;
  await store.write(new Map([["a", null], ["d", 4], ["e", broken], ["f", 6]])).catch((reason) => (error = reason));
  equal([Boolean(error), await entriesOf(open())], [true, [["a", value], ["c", 3]]], "all or none");
  await Promise.all(Array.from({ length: 20 }, (_, n) => store.write(new Map([["n", n], [`n${n}`, n]]))));
  const written = await open().load();
  equal([written.size, written.get("n")], [23, 19], "one after another");
  const other = open();
  await other.load();
  if (isShared) {
    await Promise.all([store.write(new Map([["here", 1]])), other.write(new Map([["there", 2]]))]);
    const both = await open().load();
    equal([both.get("here"), both.get("there"), both.size], [1, 2, 25], "two that write");
  }
  await store.clear();
  equal(await entriesOf(open()), [], "cleared");
  await store.write(new Map([["a", 1]]));
  equal(await entriesOf(open()), [["a", 1]], "after it was cleared");
  await store.clear();
}

/** Why a store is not used. */
export const UNUSABLE = ["corrupt", "of an older format", "another user's", "another server's"];

/**
 * A chat begins with what it finds in a store, and comes back with what it has left there.
 * @param {string} kind of UNUSABLE
 */
export async function beginsAnew(kind, store, server) {
  const room = server.create("a", ["b"]);
  const meta = { format: 1, userId: kind === "another user's" ? "z" : "a", url: kind === "another server's" ? "http://z" : "http://server" };
  if (kind === "of an older format") meta.format = 0;
  const timeline = kind === "corrupt" ? 7 : { cursor: { seq: 1 }, floor: 1, messages: [] };
  const left = { conversationId: room.id, clientMessageId: "left", content: "of before", order: 1, owner: "x" };
  await store.write(new Map([["meta", meta], [`c/${room.id}`, { timeline, details: null, read: 0 }], ["q/left", left]]));
  for (const wanted of [[], ["of now"]]) {
    const chat = await Parley.connect({
      url: "http://server", token: () => tokenOf("a"), store, fetch: server.fetch, WebSocket: server.WebSocket,
      timing: { minPause: 5, maxPause: 50, gather: 1 },
    });
    await chat.whenLive();
    const [conversation] = chat.conversations;
    const shown = () => conversation.messages.filter(({ type }) => type === "Text").map(({ content }) => content);
    equal([chat.conversations.length, shown(), chat.pendingCount], [1, wanted, 0], `${kind}: what is shown`);
    if (!wanted.length) await conversation.send("of now").whenSent();
    for (let n = 0; n < 1000 && !shown().length; n++) await new Promise((resolve) => setTimeout(resolve, 5));
    await chat.close();
    const kept = await store.load();
    equal([kept.get("meta"), kept.has("q/left")], [{ format: 1, userId: "a", url: "http://server" }, false], `${kind}: what is kept`);
  }
  equal(room.messages.filter(({ type }) => type === "Text").map(({ content }) => content), ["of now"], `${kind}: what was sent`);
  await store.clear();
}
