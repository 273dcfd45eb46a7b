/**
 * What each part promises, one by one, against the model of a server on a calm network.
 */
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { FileStore, LocalStorageStore, MemoryStore, Parley, ParleyError } from "../src/index.js";
import { BlockList } from "../src/blocks.js";
import { errorOfHub } from "../src/errors.js";
import { Members } from "../src/members.js";
import { decode, encode } from "../src/protocol.js";
import { Rest } from "../src/rest.js";
import { Timeline } from "../src/timeline.js";
import { Backoff, sleep } from "../src/waiting.js";
import { UNUSABLE, beginsAnew, keepsTheContract } from "./stores.js";
import { Failure, FakeServer, tokenOf } from "./fake-server.js";
import { VirtualTime } from "./virtual-time.js";

const time = new VirtualTime();
time.install();
const nap = (ms = 50) => new Promise((resolve) => setTimeout(resolve, ms));
const unhandled = [];
process.on("unhandledRejection", (error) => unhandled.push(error));

/** A test in virtual time, with chats that are closed at its end. */
function promise(name, body) {
  test(name, () =>
    time.run(
      (async () => {
        const server = new FakeServer();
        const chats = [];
        const connect = async (user, options = {}) => {
          const timing = { minPause: 5, maxPause: 50, gather: 1, delivered: 5 };
          const chat = await Parley.connect({
            url: "http://server/", token: () => tokenOf(user), fetch: server.fetch, WebSocket: server.WebSocket, timing, ...options,
          });
          chats.push(chat);
          return chat;
        };
        try {
          await body(server, connect);
        } finally {
          await Promise.all(chats.map((chat) => chat.close()));
        }
        await nap(1);
        assert.deepEqual(unhandled, []);
      })(),
    ),
  );
}

async function until(condition) {
  for (let n = 0; n < 2000; n++) {
    if (condition()) return;
    await nap(5);
  }
  assert.fail(`never: ${condition}`);
}

const contents = ({ messages }) => messages.filter(({ type }) => type === "Text").map(({ content }) => content);
const wire = (seq, changedSeq = seq, fields = {}) => ({ id: `m${seq}`, seq, changedSeq, status: "Sent", content: "", ...fields });

test("hub messages are split and joined by their end", () => {
  assert.deepEqual(decode(encode({ type: 6 }) + encode({ type: 7 })), [{ type: 6 }, { type: 7 }]);
  assert.throws(() => decode('{"type":6}'));
});

test("no pause is longer than a timer can be", () =>
  time.run(
    (async () => {
      const before = Date.now();
      await Promise.all([2_592_000_000, Infinity].map((ms) => sleep(ms)));
      await new Backoff({ minPause: 1, maxPause: 2 }).pass(new AbortController().signal, 2_592_000_000);
      assert.equal(Date.now() - before, 7_200_000);
    })(),
  ));

test("an error of the hub has its code, its sentence and when to come again", () => {
  const error = errorOfHub("rate_limited: At most 5 messages in 1 s; wait 0.25 s.");
  assert.deepEqual([error.code, error.retryAfterMs, error.isPassing], ["rate_limited", 250, true]);
  const more = errorOfHub('overloaded: Too much waits.\n{"retryAfterMs":1000,"fields":{"content":"It is empty."}}');
  assert.deepEqual([more.message, more.retryAfterMs, more.fields], ["Too much waits.", 1000, { content: "It is empty." }]);
  assert.equal(errorOfHub("An unexpected error occurred.").code, "internal");
  assert.equal(errorOfHub("forbidden: No.").isPassing, false);
});

test("the cursor moves with events only, and what comes twice changes nothing", () => {
  const timeline = new Timeline({ seq: 0 }, 1);
  assert.equal(timeline.apply(wire(1)), "new");
  assert.equal(timeline.apply(wire(1)), null);
  assert.equal(timeline.apply(wire(1, 2, { editedAt: "then" })), "changed");
  assert.equal(timeline.apply(wire(1)), null);
  assert.deepEqual(timeline.cursor, { seq: 2, messageId: "m1", changedAt: "then" });
  assert.equal(timeline.merge(wire(1, 3)), "changed");
  assert.equal(timeline.cursor.seq, 2);
});

test("a cursor at a reaction says when it was, and the same change of another history is another", () => {
  const timeline = new Timeline({ seq: 0 }, 1);
  timeline.apply(wire(1, 2, { editedAt: "then", changedAt: "then" }));
  const reactions = [{ emoji: ":ok:", count: 1, userIds: ["me"] }];
  assert.equal(timeline.apply(wire(1, 3, { editedAt: "then", changedAt: "now", reactions })), "changed");
  assert.deepEqual(timeline.cursor, { seq: 3, messageId: "m1", changedAt: "now" });
  assert.equal(timeline.merge(wire(1, 3, { editedAt: "then", changedAt: "now", reactions })), null);
  assert.equal(timeline.merge(wire(1, 3, { editedAt: "then", changedAt: "later" })), "changed");
});

test("a page that was read before a change does not undo it", async () => {
  const timeline = new Timeline({ seq: 5 }, 6);
  await timeline.loadOlder(async () => {
    timeline.apply(wire(3, 6, { content: "edited" }));
    return { items: [wire(5), wire(3, 3, { content: "before" })], next: "3" };
  });
  assert.deepEqual(timeline.messages.map(({ seq, content }) => [seq, content]), [[3, "edited"], [5, ""]]);
  assert.equal(timeline.floor, 3);
});

test("what a page shows beyond the cursor is of this history when its event has come", async () => {
  const timeline = new Timeline({ seq: 5 }, 6);
  await timeline.loadOlder(async () => ({ items: [wire(5), wire(3, 7, { content: "edited" })], next: null }));
  assert.equal(timeline.caughtUp(), false);
  assert.equal(Timeline.from(JSON.parse(JSON.stringify(timeline.snapshot(9)))).caughtUp(), false);
  timeline.apply(wire(6));
  timeline.apply(wire(3, 7, { content: "edited" }));
  assert.equal(timeline.caughtUp(), true);
  assert.equal(Timeline.from(timeline.snapshot(9)).caughtUp(), true);
});

test("a page that was asked for before events came does not hide what they say by what is lost", async () => {
  const lost = wire(3, 7, { content: "lost" });
  const open = async (events) => {
    const timeline = new Timeline({ seq: 5 }, 6);
    await timeline.loadOlder(async () => {
      for (const event of events) timeline.apply(event);
      return { items: [wire(5), lost], next: null };
    });
    return timeline;
  };
  const shown = ({ messages }) => messages[0].content;
  assert.equal((await open([wire(6), wire(7), wire(8)])).caughtUp(), false);
  assert.equal((await open([wire(6), wire(3, 7, { content: "lost" })])).caughtUp(), true); // it is not lost
  assert.equal((await open([wire(6), wire(3, 6), wire(7)])).caughtUp(), false);
  const overtaken = await open([wire(6), wire(7), wire(3, 8, { content: "of now" })]);
  assert.deepEqual([shown(overtaken), overtaken.caughtUp()], ["of now", true]);
  const before = await open([wire(6), wire(3, 7, { content: "of now" })]);
  assert.deepEqual([shown(before), before.caughtUp()], ["of now", true]);
  const after = await open([wire(6)]);
  assert.equal(after.apply(wire(3, 7, { content: "of now" })), "changed");
  assert.deepEqual([shown(after), after.caughtUp()], ["of now", true]);
});

test("a page that was asked for before the history was caught up with is asked for again", async () => {
  const timeline = new Timeline({ seq: 5 }, 6);
  const pages = [[wire(5, 6, { content: "of a history that is lost" })], [wire(5)]];
  await timeline.loadOlder(async () => {
    if (pages.length === 2) assert.equal(timeline.caughtUp(), true);
    return { items: pages.shift(), next: null };
  });
  assert.deepEqual(timeline.messages.map(({ changedSeq }) => changedSeq), [5]);
});

test("what has come of a broken replay is seen ahead of the next one", () => {
  const timeline = new Timeline({ seq: 1 }, 2);
  timeline.rewind();
  timeline.apply(wire(3));
  assert.deepEqual([timeline.cursor.seq, timeline.snapshot(9).cursor.seq, timeline.snapshot(9).ahead], [3, 1, ["m3"]]);
  assert.equal(timeline.rewind().seq, 1);
  timeline.apply(wire(4));
  assert.equal(timeline.caughtUp(), false);
  assert.equal(timeline.snapshot(9).cursor.seq, 4);
});

test("receipts only rise, until there is another connection and they are said anew", () => {
  const member = (readSeq) => ({ userId: "b", role: "Member", joinedAt: "then", deliveredSeq: readSeq, readSeq });
  const members = new Members("a");
  members.replace([member(7)], 1);
  members.replace([member(5)], 1);
  assert.equal(members.reached.read, 7);
  members.renew();
  assert.equal(members.reached.read, 7);
  members.receipt("b", "Read", 6);
  members.replace([member(5)], 1);
  assert.equal(members.reached.read, 6);
});

test("a receipt is kept that comes before the members are known, by a list that is older", () => {
  const members = new Members("a");
  const list = (readSeq) => ["a", "b"].map((userId) => ({ userId, role: "Member", joinedAt: "then", deliveredSeq: readSeq, readSeq }));
  members.receipt("a", "Read", 5);
  members.receipt("b", "Read", 4);
  members.replace(list(1), 2);
  assert.deepEqual([members.ownRead, members.reached.read], [5, 4]);
  members.receipt("b", "Read", 6);
  members.replace(list(2), 2);
  assert.deepEqual([members.ownRead, members.reached.read], [5, 6]);
});

test("the model of the server finds a cursor by the change that it names, as the server does", () => {
  const server = new FakeServer();
  const room = server.create("a", ["b"]);
  const first = server.send("a", { conversationId: room.id, content: "1" });
  const connection = { user: "b", attached: new Set(), event() {} };
  const lost = server.edit("a", first.id, "lost");
  const cursor = { seq: lost.changedSeq, messageId: first.id };
  assert.equal(server.replay(connection, room, cursor), "replayed");
  server.goBack(room, first.seq);
  server.send("a", { conversationId: room.id, content: "2" });
  server.edit("a", first.id, "edited again");
  assert.equal(server.replay(connection, room, cursor), "resync");
});

for (const transport of ["websocket", "sse", "polling"])
  promise(`two people chat over ${transport}`, async (server, connect) => {
    server.isStreaming = transport === "sse";
    server.create("a", ["b"]);
    const [a, b] = [await connect("a", { transports: [transport] }), await connect("b", { transports: [transport] })];
    const [here, there] = [a.conversations[0], b.conversations[0]];
    const heard = there.events("message");
    const sent = here.send("hello");
    assert.equal(sent.status, "pending");
    assert.equal(here.messages.at(-1), here.messages.at(-1));
    assert.equal((await sent.whenSent()).status, "sent");
    assert.equal((await heard.next()).value.message.content, "hello");
    assert.equal(there.unreadCount, 1);
    await until(() => here.messages.at(-1).status === "delivered");
    there.markRead();
    await until(() => here.messages.at(-1).status === "read");
    assert.equal(there.unreadCount, 0);
    assert.deepEqual(here.messages.map(({ key }) => key), [sent.key]);
    await there.loadOlder();
    assert.equal(there.isComplete, true);
    assert.equal(there.messages[0].system.event, "conversationCreated");
  });

promise("without a WebSocket the next transport is tried", async (server, connect) => {
  server.create("a", ["b"]);
  server.isStreaming = true;
  const chat = await connect("a", { WebSocket: undefined });
  assert.equal(chat.state, "live");
  class Broken {
    constructor() {
      setTimeout(() => this.onclose?.({}), 1);
    }
    close() {}
  }
  assert.equal((await connect("a", { WebSocket: Broken })).state, "live");
});

promise("what waits already is sent once, and shown once, when an application sends it again", async (server, connect) => {
  const room = server.create("a", []);
  const chat = await connect("a");
  const [conversation] = chat.conversations;
  const clientMessageId = crypto.randomUUID();
  const sent = ["once", "once"].map((content) => conversation.send(content, { clientMessageId }));
  assert.deepEqual(contents(conversation), ["once"]);
  await Promise.all(sent.map((message) => message.whenSent()));
  assert.deepEqual(contents(conversation), ["once"]);
  assert.equal(server.calls.filter(([, name]) => name === "SendMessage").length, 1);
  assert.equal(room.messages.length, 2);
});

promise("one's own order is kept, what is refused fails, and those behind it go on", async (server, connect) => {
  const room = server.create("a", []);
  const chat = await connect("a");
  const [conversation] = chat.conversations;
  const failed = conversation.events("failed");
  for (const content of ["1", " ", "2", "3"]) conversation.send(content);
  const { message, error } = (await failed.next()).value;
  assert.deepEqual([message.status, error.code, message.error.code], ["failed", "invalid_content", "invalid_content"]);
  await until(() => chat.pendingCount === 0);
  assert.deepEqual(room.messages.filter(({ type }) => type === "Text").map(({ content }) => content), ["1", "2", "3"]);
  await assert.rejects(message.whenSent(), { code: "invalid_content" });
  message.retry();
  await until(() => conversation.messages.at(-1).status === "failed");
  assert.equal(conversation.messages.at(-1).discard(), true);
  assert.deepEqual(contents(conversation), ["1", "2", "3"]);
});

promise("an answer that is lost, a cut and a drain: each message is there once", async (server, connect) => {
  const room = server.create("a", ["b"]);
  const chat = await connect("a");
  const [conversation] = chat.conversations;
  const original = server.send.bind(server);
  server.send = (...args) => {
    const done = original(...args);
    server.send = original;
    server.cut();
    return done;
  };
  conversation.send("whose answer is lost");
  conversation.send("the next");
  await until(() => chat.pendingCount === 0);
  server.drain();
  conversation.send("after the drain");
  await until(() => chat.pendingCount === 0 && chat.state === "live");
  const wanted = ["whose answer is lost", "the next", "after the drain"];
  await until(() => String(contents(conversation)) === String(wanted));
  assert.deepEqual(room.messages.slice(1).map(({ content }) => content), wanted);
});

promise("a Close that does not allow to reconnect closes the chat", async (server, connect) => {
  server.create("a", []);
  const chat = await connect("a");
  const pending = chat.conversations[0].messages;
  for (const one of server.connections) one.write({ type: 7, error: "unauthenticated: The session was ended." });
  await until(() => chat.state === "closed");
  assert.equal(chat.reason.code, "unauthenticated");
  assert.equal(pending.length, 0);
  await assert.rejects(chat.whenLive(), { code: "unauthenticated" });
});

promise("a token that is refused is asked for once more, then the chat is closed", async (server, connect) => {
  server.create("a", []);
  const tokens = [tokenOf("a", 100), tokenOf("a", 200), tokenOf("a", 300)];
  server.refused.add(tokens[0]);
  let asked = 0;
  const chat = await connect("a", { token: () => tokens[asked++] ?? tokens[2] });
  assert.deepEqual([chat.state, asked], ["live", 2]);
  for (const token of tokens) server.refused.add(token);
  server.cut();
  await until(() => chat.state === "closed");
  assert.equal(chat.reason.code, "unauthenticated");
});

promise("the token is renewed on the connection before it ends", async (server, connect) => {
  server.create("a", []);
  const chat = await connect("a", { token: () => tokenOf("a", 60) });
  await nap(50_000);
  assert.equal(chat.state, "live");
  assert.ok(server.calls.some(([, name]) => name === "RefreshToken"));
});

promise("a token that does not come can be given up, and is taken when it comes", async (server, connect) => {
  server.create("a", []);
  const stop = new AbortController();
  const waiting = connect("a", { token: () => new Promise(() => {}), signal: stop.signal });
  await nap();
  stop.abort();
  await assert.rejects(waiting, { code: "aborted" });
  let give = null;
  let isAsked = 0;
  const token = () => (++isAsked === 1 ? tokenOf("a", 60) : new Promise((resolve) => (give = () => resolve(tokenOf("a")))));
  const timing = { minPause: 5, maxPause: 50, open: 200, call: 200 };
  const chat = await connect("a", { token, timing });
  await nap(61_000);
  server.cut();
  await until(() => chat.state === "offline" && chat.reason.code === "timeout");
  await assert.rejects(chat.me(), { code: "timeout" });
  await assert.rejects(chat.me({ signal: AbortSignal.abort() }), { code: "aborted" });
  give();
  await until(() => chat.state === "live");
  assert.equal(isAsked, 2);
});

promise("a new token is said again to a server that could not take it", async (server, connect) => {
  server.create("a", []);
  const invoke = server.invoke.bind(server);
  let isRefused = false;
  server.invoke = (connection, name, args) => {
    if (name !== "RefreshToken" || isRefused) return invoke(connection, name, args);
    isRefused = true;
    throw new Failure("unavailable", 503);
  };
  const chat = await connect("a", { token: () => tokenOf("a", 60) });
  await nap(58_000);
  assert.deepEqual([isRefused, server.calls.filter(([, name]) => name === "RefreshToken").length], [true, 1]);
  assert.equal(chat.state, "live");
});

promise("a token is used to its end where no other comes", async (server, connect) => {
  server.create("a", []);
  for (const fail of [() => Promise.reject(new Error("out of order")), () => new Promise(() => {})]) {
    let isAsked = false;
    const token = () => (isAsked ? fail() : ((isAsked = true), tokenOf("a", 60)));
    const chat = await connect("a", { token });
    await nap(50_000); // another one is due
    assert.equal((await chat.me()).id, "a");
    await chat.close();
  }
});

promise("by a clock that is wrong a token is good for as long as it says", async (server, connect) => {
  server.create("a", []);
  for (const hours of [-5, 5]) {
    const base64 = (claims) => btoa(JSON.stringify(claims)).replaceAll("=", "");
    let isAsked = 0;
    const token = () => {
      isAsked++;
      const iat = Math.floor(Date.now() / 1000) + hours * 3600;
      return `e30.${base64({ sub: "a", iat, exp: iat + 900 })}.x${isAsked}`;
    };
    const chat = await connect("a", { token });
    await nap(1_800_000);
    assert.equal(chat.state, "live");
    assert.equal(isAsked, 3, String(hours));
    await chat.close();
  }
});

promise("a clock that is set back hides neither that the server is silent, nor that one types", async (server, connect) => {
  const room = server.create("a", ["b"]);
  const [a, b] = [await connect("a"), await connect("b")];
  const [here, there] = [a.conversations[0], b.conversations[0]];
  const pings = setInterval(() => server.connections.forEach((one) => one.write({ type: 6 })), 10_000);
  here.startTyping();
  await until(() => there.typing.length === 1);
  const { now } = Date;
  Date.now = () => now() - 3_600_000;
  try {
    await until(() => there.typing.length === 0);
    here.startTyping();
    await until(() => there.typing.length === 1);
    for (const one of server.connections) one.isDead = true;
    server.send("b", { conversationId: room.id, content: "1" });
    await nap(120_000);
    assert.deepEqual(contents(here), ["1"]);
  } finally {
    Date.now = now;
    clearInterval(pings);
  }
});

promise("messages on their way, cursors and messages survive a reload", async (server, connect) => {
  const room = server.create("a", ["b"]);
  const store = new MemoryStore();
  const first = await connect("a", { store });
  server.send("b", { conversationId: room.id, content: "seen" });
  await until(() => contents(first.conversations[0]).length === 1);
  server.network.refuse = 1;
  server.cut();
  first.conversations[0].send("on its way");
  await nap(20);
  await first.close();
  const second = await connect("a", { store });
  assert.notEqual(second.state, "live");
  assert.deepEqual(second.conversations[0].messages.map(({ content, status }) => [content, status]), [["seen", "sent"], ["on its way", "pending"]]);
  server.send("b", { conversationId: room.id, content: "missed" });
  server.network.refuse = 0;
  await until(() => second.pendingCount === 0 && second.state === "live");
  await until(() => String(contents(second.conversations[0])) === "seen,missed,on its way");
  const other = await connect("b", { store });
  assert.equal(other.userId, "b");
});

const DAY = 24 * 3_600_000;

/** What a store keeps of a message that was on its way when its chat ended: attempted without an answer, or never. */
async function leaves(server, connect, store, { arrives = false, isAttempted = true } = {}) {
  const { send } = server;
  const chat = await connect("a", { store });
  const attempted = new Promise((resolve) => {
    server.send = (...args) => {
      server.network.refuse = 1;
      if (arrives) send.apply(server, args);
      server.cut();
      resolve(store.load());
      throw new Failure("unavailable", 503);
    };
  });
  if (!isAttempted) {
    server.network.refuse = 1;
    server.cut();
    await until(() => chat.state !== "live");
  }
  const { key } = chat.conversations[0].send("on its way");
  if (isAttempted) assert.equal(typeof (await attempted).get(`q/${key}`).attemptedAt, "number"); // it was kept before
  await nap(20);
  await chat.close();
  server.send = send;
  server.network.refuse = 0;
  server.sends.clear(); // the keys are kept for a limited time
  return (await store.load()).get(`q/${key}`);
}

promise("what was sent too long ago to be known to the server again is not sent by itself", async (server, connect) => {
  const room = server.create("a", ["b"]);
  const store = new MemoryStore();
  await leaves(server, connect, store);
  await nap(4 * DAY);
  const { send } = server;
  let attempts = 0;
  server.send = () => {
    attempts++;
    throw new Failure("unavailable", 503);
  };
  const between = await connect("a", { store });
  await until(() => attempts > 1); // the first one counts
  await between.close();
  server.send = send;
  await nap(2.5 * DAY);
  for (const round of ["discarded", "sent again"]) {
    const chat = await connect("a", { store });
    const [conversation] = chat.conversations;
    await until(() => conversation.messages.at(-1).status === "failed");
    const failed = conversation.messages.at(-1);
    assert.deepEqual([failed.content, failed.error.code, failed.error.isPassing], ["on its way", "outcome_unknown", false]);
    assert.equal(room.messages.filter(({ type }) => type === "Text").length, 0);
    if (round === "sent again") {
      failed.retry();
      await failed.whenSent();
      assert.equal(room.messages.filter(({ type }) => type === "Text").length, 1);
    } else {
      assert.equal(failed.discard(), true);
      await chat.close();
      await leaves(server, connect, store);
      await nap(6.5 * DAY);
    }
  }
});

promise("what was sent long ago and is in the history is sent", async (server, connect) => {
  const room = server.create("a", ["b"]);
  const store = new MemoryStore();
  await leaves(server, connect, store, { arrives: true });
  await nap(30 * DAY);
  const chat = await connect("a", { store });
  await until(() => chat.pendingCount === 0);
  assert.deepEqual(chat.conversations[0].messages.slice(-1).map(({ content, status }) => [content, status]), [["on its way", "sent"]]);
  assert.equal(room.messages.filter(({ type }) => type === "Text").length, 1);
});

for (const arrives of [true, false])
  promise(`what was sent long ago ${arrives ? "and arrived" : "and did not arrive"} waits for a history that is read anew`, async (server, connect) => {
    const room = server.create("a", ["b"]);
    const store = new MemoryStore();
    const first = await connect("a", { store });
    server.send("b", { conversationId: room.id, content: "seen" });
    await until(() => contents(first.conversations[0]).length === 1);
    await first.close();
    await leaves(server, connect, store, { arrives });
    for (let n = 0; n < 40; n++) server.send("b", { conversationId: room.id, content: `missed ${n}` });
    await nap(30 * DAY);
    let pages = 0;
    const fetch = async (...args) => {
      if (String(args[0]).includes("/api/messages")) pages++, await nap(500);
      return server.fetch(...args);
    };
    let chat = null;
    chat = await connect("a", { store, fetch });
    const failed = [];
    chat.on("failed", (event) => failed.push(event));
    await until(() => chat.pendingCount === 0 && chat.state === "live" && !chat.conversations[0].isResetting);
    assert.deepEqual([failed.length, pages > 0], [arrives ? 0 : 1, true]);
    assert.equal(chat.conversations[0].messages.find(({ content }) => content === "on its way").status, arrives ? "read" : "failed");
    assert.equal(room.messages.filter(({ content }) => content === "on its way").length, arrives ? 1 : 0);
  });

promise("what was sent long ago and is shown is sent, though the store still says that it waits", async (server, connect) => {
  const room = server.create("a", ["b"]);
  const store = new MemoryStore();
  const draft = await leaves(server, connect, store, { arrives: true });
  const chat = await connect("a", { store });
  await until(() => chat.pendingCount === 0);
  await chat.close();
  await store.write(new Map([[`q/${draft.clientMessageId}`, draft]])); // it was killed before it had written that
  await nap(30 * DAY);
  const again = await connect("a", { store });
  const failed = [];
  again.on("failed", (event) => failed.push(event));
  await until(() => again.pendingCount === 0);
  assert.equal(failed.length, 0);
  assert.deepEqual(again.conversations[0].messages.slice(-1).map(({ content, status }) => [content, status]), [["on its way", "sent"]]);
  assert.equal(room.messages.filter(({ type }) => type === "Text").length, 1);
});

promise("an attempt is in a store, however slow that is, before it is made", async (server, connect) => {
  server.create("a", ["b"]);
  const store = new MemoryStore();
  const write = store.write.bind(store);
  store.write = async (changes) => (await nap(500), write(changes));
  const { send } = server;
  const kept = [];
  server.send = (...args) => {
    kept.push(store.load());
    return send.apply(server, args);
  };
  const chat = await connect("a", { store });
  const message = chat.conversations[0].send("on its way");
  await message.whenSent();
  assert.equal(typeof (await kept[0]).get(`q/${message.key}`)?.attemptedAt, "number");
});

promise("what was never sent to a server is sent whatever its age", async (server, connect) => {
  const room = server.create("a", ["b"]);
  const store = new MemoryStore();
  assert.equal((await leaves(server, connect, store, { isAttempted: false })).attemptedAt, null);
  await nap(30 * DAY);
  const chat = await connect("a", { store });
  await until(() => chat.pendingCount === 0);
  assert.equal(room.messages.filter(({ type }) => type === "Text").length, 1);
  assert.equal(chat.conversations[0].messages.at(-1).status, "sent");
});

promise("a store that stands still holds no message up", async (server, connect) => {
  const room = server.create("a", ["b"]);
  const store = new MemoryStore();
  const chat = await connect("a", { store });
  const write = store.write.bind(store);
  let goOn = () => {};
  const gate = new Promise((resolve) => (goOn = resolve));
  store.write = async (changes) => (await gate, write(changes));
  try {
    for (const content of ["one", "other"]) chat.conversations[0].send(content);
    await until(() => chat.pendingCount === 0);
    assert.deepEqual(contents(room), ["one", "other"]);
  } finally {
    goOn();
  }
});

promise("a store that stands still keeps no chat from beginning, nor from its end", async (server, connect) => {
  const room = server.create("a", ["b"]);
  const never = () => new Promise(() => {});
  const kept = new MemoryStore();
  await (await connect("a", { store: kept })).close();
  const before = await kept.load();
  for (const still of [{ load: never }, { load: async () => before, write: never }, { load: async () => new Map([["x", 1]]), clear: never }]) {
    const store = { load: () => kept.load(), write: (changes) => kept.write(changes), clear: () => kept.clear(), ...still };
    const chat = await connect("a", { store });
    await chat.whenLive();
    const sent = await chat.conversations[0].send("1").whenSent();
    assert.equal(sent.seq, room.lastSeq);
    await chat.close();
    assert.equal(chat.state, "closed");
  }
  assert.deepEqual(await kept.load(), before); // what it has is not touched
});

promise("the age of what was sent is as far as clock and store say it", async (server, connect) => {
  const room = server.create("a", ["b"]);
  const store = new MemoryStore();
  const at = (ms) => new Date(Date.now() + ms).toISOString();
  const cases = [
    [() => ({ attemptedAt: Date.now() - 5 * DAY }), true],
    [() => ({ attemptedAt: Date.now() + 3_600_000 }), true], // clocks differ a little
    [() => ({ attemptedAt: Date.now() + 2 * DAY }), false], // the clock was set back
    [() => ({ attemptedAt: undefined, createdAt: at(-8 * DAY) }), false], // of a version that kept no attempts
    [() => ({ attemptedAt: undefined, createdAt: at(-DAY) }), true],
    [() => ({ attemptedAt: undefined, createdAt: undefined }), true],
  ];
  for (const [change, isSent] of cases) {
    const before = room.messages.length;
    const draft = await leaves(server, connect, store);
    await store.write(new Map([[`q/${draft.clientMessageId}`, { ...draft, ...change() }]]));
    const chat = await connect("a", { store });
    const [conversation] = chat.conversations;
    await until(() => chat.pendingCount === 0);
    const last = conversation.messages.at(-1);
    assert.deepEqual([last.status, room.messages.length - before], isSent ? ["sent", 1] : ["failed", 0], String(change));
    if (!isSent) last.discard();
    await chat.close();
  }
});

promise("what was sent lately and is lost with the history is sent again", async (server, connect) => {
  const room = server.create("a", ["b"]);
  const chat = await connect("a");
  const [conversation] = chat.conversations;
  for (const content of ["1", "2", "3"]) await conversation.send(content).whenSent();
  server.goBack(room, 2);
  const reset = conversation.events("reset");
  server.send("b", { conversationId: room.id, content: "after it" });
  await reset.next();
  await until(() => chat.pendingCount === 0);
  await until(() => String(contents(conversation)) === "1,after it,2,3");
  assert.deepEqual(room.messages.slice(1).map(({ content }) => content), ["1", "after it", "2", "3"]);
});

/** A network that can keep the next answer to a request, until `release`. */
class Keeping {
  isArmed = false;
  release = null;

  constructor(server, path, method = "GET") {
    this.fetch = async (url, options) => {
      const answer = await server.fetch(url, options);
      if (!this.isArmed || (options.method ?? "GET") !== method || new URL(url).pathname !== path) return answer;
      this.isArmed = false;
      await new Promise((go) => (this.release = go));
      return answer;
    };
  }

  /** Until an answer is kept. */
  async kept() {
    await until(() => this.release);
  }
}

/** Runs once, and before the next page of messages is answered. */
function beforeNextPage(server, act) {
  const { rest } = server;
  server.rest = (user, method, path, ...more) => {
    if (method === "GET" && path === "/api/messages") {
      server.rest = rest;
      act();
    }
    return rest.call(server, user, method, path, ...more);
  };
}

promise("a page that shows an edit which is lost before its event has come is read anew", async (server, connect) => {
  const room = server.create("a", ["b"]);
  const { id } = server.send("b", { conversationId: room.id, content: "1" });
  const chat = await connect("a");
  const [conversation] = chat.conversations;
  beforeNextPage(server, () => {
    server.network.refuse = 1;
    server.cut();
    server.edit("b", id, "lost");
  });
  await conversation.loadOlder();
  assert.deepEqual(contents(conversation), ["lost"]);
  server.goBack(room, 2);
  server.network.refuse = 0;
  await until(() => chat.state === "live" && !conversation.isResetting);
  assert.deepEqual(contents(conversation), ["1"]);
});

promise("what was read in a history that is lost counts no more, though the cursor is good", async (server, connect) => {
  const room = server.create("a", ["b"]);
  const [chat, other] = [await connect("a", { markDelivered: false }), await connect("b")];
  const [conversation] = chat.conversations;
  const wasRead = server.send("a", { conversationId: room.id, content: "1" });
  await until(() => conversation.cursor.seq === wasRead.seq);
  server.receipt("b", room, "Read", wasRead.seq);
  await conversation.loadOlder();
  await until(() => conversation.messages.at(-1).status === "read");
  server.network.refuse = 1;
  server.cut();
  await nap(1);
  for (const userId of ["a", "b"]) room.members.get(userId).readSeq = room.members.get(userId).deliveredSeq = 1;
  server.network.refuse = 0;
  await until(() => chat.state === "live" && other.state === "live");
  await until(() => conversation.readSeq === 1 && conversation.messages.at(-1).status !== "read");
});

promise("a Resync before the answer to Sync says from where on the conversation is attached", async (server, connect) => {
  const room = server.create("a", ["b"]);
  server.send("b", { conversationId: room.id, content: "lost" });
  const { outcome } = server;
  server.outcome = (connection, conversation, done) => {
    server.outcome = outcome;
    server.goBack(room, 1);
    const answer = outcome.call(server, connection, conversation, done);
    server.send("b", { conversationId: room.id, content: "1" });
    server.send("b", { conversationId: room.id, content: "2" });
    return answer;
  };
  const [conversation] = (await connect("a")).conversations;
  while (!conversation.isComplete) await conversation.loadOlder();
  assert.deepEqual(contents(conversation), ["1", "2"]);
  await until(() => conversation.unreadCount === 2);
});

promise("details that events have overtaken are asked for again", async (server, connect) => {
  const room = server.create("a", ["b"]);
  const network = new Keeping(server, `/api/conversations/${room.id}`);
  const [conversation] = (await connect("a", { fetch: network.fetch, markDelivered: false })).conversations;
  await nap();
  network.isArmed = true;
  for (const one of server.connections) one.event("Resync", { conversationId: room.id, ...server.head(room) }, room.id);
  await network.kept();
  const { members } = server.view(room, "a");
  const view = server.view;
  server.view = (...args) => ({ ...view.apply(server, args), members: members.filter(({ userId }) => userId !== "a") });
  server.system(room, "b", { event: "titleChanged", by: "b", name: null });
  await until(() => conversation.cursor.seq === 2);
  server.view = view;
  network.release();
  await until(() => conversation.readSeq === 1);
});

promise("a list that was asked for before a history went back is not taken for it", async (server, connect) => {
  const room = server.create("a", ["b"]);
  const network = new Keeping(server, "/api/conversations");
  const chat = await connect("a", { fetch: network.fetch, markDelivered: false });
  const [conversation] = chat.conversations;
  server.receipt("a", room, "Read", server.send("b", { conversationId: room.id, content: "lost" }).seq);
  await until(() => conversation.readSeq === 2);
  network.isArmed = true;
  server.cut();
  await network.kept();
  await until(() => chat.state === "live");
  server.goBack(room, 1);
  server.send("b", { conversationId: room.id, content: "of now" });
  await until(() => conversation.readSeq === 1);
  network.release();
  await nap();
  assert.deepEqual([conversation.readSeq, conversation.unreadCount], [1, 1]);
});

promise("a Resync of a conversation of which no event has come yet says anew how far one has read", async (server, connect) => {
  const room = server.create("b", ["c"]);
  const chat = await connect("a", { markDelivered: false });
  const say = (content) => server.send("b", { conversationId: room.id, content });
  for (let n = 0; n < 5; n++) say("lost");
  server.addMember(room, "b", "a");
  await until(() => chat.conversations[0]?.readSeq === 7);
  const [conversation] = chat.conversations;
  assert.equal(conversation.isAttached, false);
  server.goBack(room, 2);
  say("of now");
  say("of now, too");
  await until(() => conversation.cursor?.seq === 4);
  await nap();
  assert.deepEqual([conversation.readSeq, conversation.unreadCount, conversation.head], [2, 2, 4]);
});

promise("what was said to be read in a history that is lost does not hide that one reads as much anew", async (server, connect) => {
  const room = server.create("a", ["b"]);
  const [conversation] = (await connect("a", { markDelivered: false })).conversations;
  const say = (content) => server.send("b", { conversationId: room.id, content });
  say("lost");
  await until(() => conversation.unreadCount === 1);
  const [connection] = server.connections;
  const { write } = connection;
  const kept = [];
  connection.write = (message, ...more) => (message.type === 3 ? kept.push(message) : write.call(connection, message, ...more));
  conversation.markRead();
  await until(() => kept.length === 1);
  server.goBack(room, 1);
  say("of now");
  await until(() => !conversation.isResetting && conversation.unreadCount === 1);
  conversation.markRead();
  connection.write = write;
  for (const message of kept) connection.write(message);
  await until(() => server.unread(room, "a") === 0);
  await nap();
  assert.equal(conversation.unreadCount, 0);
});

for (const isKept of [false, true])
  promise(`what a replay that broke off has passed over is there, though what hid it is lost${isKept ? ", also in a new page" : ""}`, async (server, connect) => {
    const room = server.create("a", ["b"]);
    const say = (content) => server.send("b", { conversationId: room.id, content });
    const options = { store: new MemoryStore() };
    let chat = await connect("a", options);
    server.network.refuse = 1;
    server.cut();
    const { id } = say("1");
    say("2");
    server.edit("b", id, "lost");
    say("lost, too");
    server.dice.below = () => 0; // each event is a frame
    const off = chat.on("message", ({ message }) => {
      off();
      assert.equal(message.content, "2");
      server.network.refuse = 1;
      server.cut();
    });
    server.network.refuse = 0;
    await until(() => server.network.refuse === 1 && chat.state === "offline");
    if (isKept) await chat.close();
    server.goBack(room, 3);
    server.network.refuse = 0;
    if (isKept) chat = await connect("a", options);
    await until(() => chat.state === "live" && !chat.conversations[0].isResetting);
    assert.deepEqual(contents(chat.conversations[0]), ["1", "2"]);
    say("3");
    await until(() => String(contents(chat.conversations[0])) === "1,2,3");
  });

promise("what has come of a replay that broke off, and is lost, is shown no more", async (server, connect) => {
  const room = server.create("a", ["b"]);
  const say = (content) => server.send("b", { conversationId: room.id, content });
  const chat = await connect("a");
  const [conversation] = chat.conversations;
  server.network.refuse = 1;
  server.cut();
  const { id } = say("1");
  say("lost");
  server.edit("b", id, "1 edited");
  server.dice.below = () => 0;
  const off = chat.on("message", () => (off(), (server.network.refuse = 1), server.cut()));
  server.network.refuse = 0;
  await until(() => server.network.refuse === 1 && chat.state === "offline");
  assert.deepEqual(contents(conversation), ["lost"]);
  server.goBack(room, 2);
  for (let n = 0; n < 3; n++) say("of now");
  server.network.refuse = 0;
  await until(() => chat.state === "live" && !conversation.isResetting);
  while (!conversation.isComplete) await conversation.loadOlder();
  assert.deepEqual(conversation.messages.map(({ id: one }) => one), room.messages.map(({ id: one }) => one));
});

promise("what was lost and sent again is shown once, before it is noticed as well", async (server, connect) => {
  const room = server.create("a", ["b"]);
  const say = () => server.send("a", { conversationId: room.id, content: "mine", clientMessageId: "k" }); // another device
  const chat = await connect("a");
  const [conversation] = chat.conversations;
  server.network.refuse = 1;
  server.cut();
  const { id } = server.send("b", { conversationId: room.id, content: "1" });
  say();
  server.edit("b", id, "1 edited");
  server.dice.below = () => 0;
  const off = chat.on("message", () => (off(), (server.network.refuse = 1), server.cut()));
  const keys = [];
  chat.on("update", () => keys.push(conversation.messages.map(({ key }) => key)));
  server.network.refuse = 0;
  await until(() => server.network.refuse === 1 && chat.state === "offline");
  assert.deepEqual(contents(conversation), ["mine"]);
  server.goBack(room, 1);
  server.send("b", { conversationId: room.id, content: "of now" });
  say();
  server.network.refuse = 0;
  await until(() => chat.state === "live" && !conversation.isResetting);
  assert.deepEqual(contents(conversation), ["of now", "mine"]);
  for (const each of keys) assert.equal(new Set(each).size, each.length);
});

promise("what is answered late of a thread is not of a lost history", async (server, connect) => {
  const room = server.create("a", ["b"]);
  const { rest } = server;
  for (const [method, path, ask] of [
    ["PUT", (id) => `/api/threads/${id}/following`, (chat, id) => chat.conversations[0].followThread(id)],
    ["GET", () => "/api/threads", (chat) => chat.threads()],
  ]) {
    const root = server.send("b", { conversationId: room.id, content: "root" });
    server.setThread("a", root, false, 1);
    const network = new Keeping(server, path(root.id), method);
    const chat = await connect("a", { fetch: network.fetch });
    const [conversation] = chat.conversations;
    server.rest = (user, asked, where, ...more) => {
      if (asked !== method || where !== path(root.id)) return rest.call(server, user, asked, where, ...more);
      const state = { ...server.threads.get(`a ${root.id}`), isFollowing: true, version: 2 };
      return method === "PUT" ? state : { items: [{ ...state, root }], next: null };
    };
    network.isArmed = true;
    const asking = ask(chat, root.id);
    await network.kept();
    server.send("b", { conversationId: room.id, content: "lost" });
    server.goBack(room, room.lastSeq - 1);
    const reset = conversation.events("reset");
    server.send("b", { conversationId: room.id, content: "of now" });
    await reset.next();
    conversation.isFollowing(root.id);
    await nap();
    network.release();
    await asking;
    await nap();
    assert.equal(conversation.isFollowing(root.id), false);
    await chat.close();
  }
});

promise("where it is not known how far one has read, the server's count is what is unread", async (server, connect) => {
  const room = server.create("b", ["a"]);
  for (let n = 0; n < 3; n++) server.send("b", { conversationId: room.id, content: String(n) });
  server.receipt("a", room, "Read", 3);
  const { view } = server;
  server.view = (...args) => {
    const all = view.apply(server, args); // of a large group
    return { ...all, memberCount: 150, members: all.members.filter(({ userId }) => userId !== "a") };
  };
  const [conversation] = (await connect("a", { markDelivered: false })).conversations;
  while (!conversation.isComplete) await conversation.loadOlder();
  assert.equal(conversation.unreadCount, 1);
  server.send("b", { conversationId: room.id, content: "3" });
  await until(() => conversation.unreadCount === 2);
  conversation.markRead(4);
  assert.equal(conversation.unreadCount, 1);
});

promise("a page that is taken before the answer to Sync, after events that pass it, hides no lost edit", async (server, connect) => {
  const room = server.create("a", ["b"]);
  const { id } = server.send("b", { conversationId: room.id, content: "1" });
  const network = new Keeping(server, "/api/messages");
  const chat = await connect("a", { fetch: network.fetch });
  const [conversation] = chat.conversations;
  beforeNextPage(server, () => {
    server.network.refuse = 1;
    server.cut();
    server.edit("b", id, "lost");
  });
  network.isArmed = true;
  const loading = conversation.loadOlder();
  await network.kept();
  server.goBack(room, 2);
  const sent = Array.from({ length: 9 }, (_, n) => server.send("b", { conversationId: room.id, content: `${n + 2}` }));
  let wasTaken = null;
  conversation.on("message", ({ message }) => message.seq === 4 && network.release());
  loading.then(() => (wasTaken = chat.state));
  server.network.refuse = 0;
  await until(() => chat.state === "live" && !conversation.isResetting);
  assert.equal(wasTaken, "catching_up");
  assert.deepEqual(contents(conversation), ["1", ...sent.map(({ content }) => content)]);
});

promise("an answer that comes after the history was caught up with, or read anew, says nothing of it", async (server, connect) => {
  const room = server.create("a", ["b"]);
  const network = new Keeping(server, "/api/messages", "POST");
  const chat = await connect("a", { fetch: network.fetch });
  const [conversation] = chat.conversations;
  const { send, publish } = server;
  for (const isNoticed of [false, true]) {
    server.send = (...args) => {
      server.send = send;
      if (isNoticed) server.publish = () => {}; // its event is on its way
      else server.network.refuse = 1;
      if (!isNoticed) server.cut();
      const answer = send.apply(server, args);
      server.publish = publish;
      return answer;
    };
    network.isArmed = true;
    const content = String(isNoticed).repeat(2000);
    const message = conversation.send(content);
    await network.kept();
    server.goBack(room, room.lastSeq - 1);
    if (isNoticed) server.send("b", { conversationId: room.id, content: "of now" });
    server.network.refuse = 0;
    await nap();
    await until(() => chat.state === "live" && !conversation.isResetting);
    network.release();
    network.release = null;
    assert.equal((await message.whenSent()).status, "sent");
    await until(() => chat.pendingCount === 0);
    await nap();
    while (!conversation.isComplete) await conversation.loadOlder();
    assert.deepEqual(conversation.messages.map(({ id }) => id), room.messages.map(({ id }) => id));
    assert.equal(contents(conversation).filter((one) => one === content).length, 1);
  }
});

promise("what is answered late to one who makes a conversation, or reads its members, is not of a lost history", async (server, connect) => {
  const room = server.create("a", ["b"]);
  const { rest } = server;
  server.rest = (user, method, path, ...more) =>
    method === "POST" && path === "/api/conversations" ? server.view(room, user) : rest.call(server, user, method, path, ...more);
  const read = ({ members }) => members.find(({ userId }) => userId === "b").readSeq;
  for (const [path, method, ask] of [
    ["/api/conversations", "POST", (chat) => chat.createDirect("b")],
    [`/api/conversations/${room.id}/members`, "GET", (chat) => chat.conversations[0].loadMembers()],
  ]) {
    const network = new Keeping(server, path, method);
    const chat = await connect("a", { fetch: network.fetch, markDelivered: false });
    const [conversation] = chat.conversations;
    const before = room.lastSeq;
    for (let n = 0; n < 5; n++) server.send("b", { conversationId: room.id, content: "lost" });
    await until(() => conversation.cursor.seq === before + 5);
    network.isArmed = true;
    const asking = ask(chat);
    await network.kept();
    server.goBack(room, before);
    server.send("b", { conversationId: room.id, content: "of now" });
    await until(() => !conversation.isResetting && conversation.cursor.seq === before + 1);
    await nap();
    network.release();
    await asking;
    await nap();
    assert.deepEqual([conversation.head, read(conversation)], [before + 1, before + 1]);
    await chat.close();
  }
});

promise("who has left is no member any more when all are read, though nothing was heard of it", async (server, connect) => {
  const room = server.create("b", ["a", "c", "d"]);
  const { view } = server;
  server.view = (...args) => {
    const all = view.apply(server, args);
    return { ...all, members: all.members.slice(0, 2) }; // of a large group
  };
  const chat = await connect("a");
  const [conversation] = chat.conversations;
  const ids = async () => (await conversation.loadMembers()).map(({ userId }) => userId).sort();
  assert.deepEqual(await ids(), ["a", "b", "c", "d"]);
  server.network.refuse = 1;
  server.cut();
  server.removeMember(room, "b", "d");
  for (let n = 0; n < 40; n++) server.send("b", { conversationId: room.id, content: String(n) });
  server.network.refuse = 0;
  await until(() => chat.state === "live" && !conversation.isResetting && conversation.head === room.lastSeq);
  assert.deepEqual(await ids(), ["a", "b", "c"]);
  assert.equal(conversation.memberCount, 3);
});

promise("nothing is read that is not there, or not shown", async (server, connect) => {
  const room = server.create("a", ["b"]);
  const network = new Keeping(server, "/api/messages");
  const chat = await connect("a", { fetch: network.fetch });
  const [conversation] = chat.conversations;
  conversation.markRead(100);
  assert.equal(conversation.readSeq, 1);
  for (let n = 0; n < 5; n++) server.send("b", { conversationId: room.id, content: "lost" });
  await until(() => conversation.unreadCount === 5);
  server.goBack(room, 1);
  network.isArmed = true;
  server.send("b", { conversationId: room.id, content: "not yet seen" });
  await network.kept();
  conversation.markRead();
  conversation.markRead(conversation.messages.at(-1).seq);
  network.release();
  await until(() => !conversation.isResetting);
  await nap();
  assert.deepEqual([conversation.unreadCount, server.unread(room, "a")], [1, 1]);
});

promise("that one has read is said again until the server has taken it, while the connection lasts", async (server, connect) => {
  const room = server.create("a", ["b"]);
  const [conversation] = (await connect("a")).conversations;
  server.send("b", { conversationId: room.id, content: "read" });
  await until(() => conversation.unreadCount === 1);
  const invoke = server.invoke.bind(server);
  let refusals = 3;
  server.invoke = (connection, name, args) => {
    if (name === "MarkRead" && refusals-- > 0) throw new Failure("unavailable", 503);
    return invoke(connection, name, args);
  };
  conversation.markRead();
  await until(() => server.unread(room, "a") === 0);
  await nap();
  assert.deepEqual([conversation.unreadCount, server.calls.filter(([, name]) => name === "MarkRead").length], [0, 1]);
});

promise("what one sets for oneself is so on one's other devices, and an older answer does not undo it", async (server, connect) => {
  const room = server.create("a", ["b"]);
  const network = new Keeping(server, `/api/conversations/${room.id}`);
  const [here, there, other] = [await connect("a", { fetch: network.fetch }), await connect("a"), await connect("b")];
  const [mine, elsewhere, theirs] = [here, there, other].map((chat) => chat.conversations[0]);
  await mine.updateSettings({ archived: true, mutedUntil: "forever" });
  await until(() => elsewhere.isArchived && elsewhere.isMuted);
  assert.deepEqual([mine.isArchived, mine.isMuted, mine.isFavourite, mine.mutedUntil.getUTCFullYear()], [true, true, false, 9999]);
  assert.deepEqual([theirs.isArchived, theirs.isMuted, theirs.mutedUntil], [false, false, null]);
  network.isArmed = true;
  const asking = mine.refresh(); // its answer is of now, and comes after the event of what follows
  await network.kept();
  await elsewhere.updateSettings({ favourite: true, mutedUntil: null });
  await until(() => mine.isFavourite);
  network.release();
  await asking;
  assert.deepEqual([mine.isFavourite, mine.isArchived, mine.isMuted], [true, true, false]);
  await mine.updateSettings({ mutedUntil: new Date(Date.now() - 1) });
  assert.equal(mine.isMuted, false); // it is over
});

promise("what was set while one was away is known when one is back, and so is what was lost", async (server, connect) => {
  const room = server.create("a", ["b"]);
  const chat = await connect("a");
  const [conversation] = chat.conversations;
  await conversation.updateSettings({ favourite: true });
  for (const one of [...server.connections]) one.end();
  server.set(room, "a", { archived: true });
  await until(() => chat.state === "live" && conversation.isArchived);
  server.settings.delete(`${room.id} a`); // PostgreSQL has lost it
  for (const one of [...server.connections]) one.end();
  await until(() => chat.state === "live" && !conversation.isArchived && !conversation.isFavourite);
});

promise("what has arrived is said again in a history that has gone back", async (server, connect) => {
  const room = server.create("a", ["b"]);
  const chat = await connect("b");
  const say = (content) => server.send("a", { conversationId: room.id, content });
  for (let n = 0; n < 5; n++) say("lost");
  const { deliveredSeq } = room.members.get("b");
  await until(() => room.members.get("b").deliveredSeq === 6);
  assert.equal(deliveredSeq, 1);
  server.goBack(room, 1);
  say("of now");
  await until(() => room.members.get("b").deliveredSeq === 2);
  say("and more");
  await until(() => room.members.get("b").deliveredSeq === 3);
  assert.equal(chat.state, "live");
});

for (const transport of ["sse", "polling"])
  promise(`a connection over ${transport} whose half is dead does not keep what is sent`, async (server, connect) => {
    server.isStreaming = transport === "sse";
    const room = server.create("a", ["b"]);
    let isDead = false;
    const fetch = (url, options) => {
      if (!isDead || options.method !== "POST" || new URL(url).pathname !== "/hubs/chat") return server.fetch(url, options);
      isDead = false;
      return new Promise((_, reject) => options.signal.addEventListener("abort", () => reject(new DOMException("Aborted", "AbortError"))));
    };
    const timing = { minPause: 5, maxPause: 50, gather: 1, delivered: 5, call: 200 };
    const chat = await connect("a", { fetch, transports: [transport], timing });
    isDead = true;
    const message = chat.conversations[0].send("1");
    await until(() => chat.pendingCount === 0);
    assert.equal((await message.whenSent()).seq, room.lastSeq);
  });

promise("a conversation that is too far behind is read anew, and says so", async (server, connect) => {
  const room = server.create("a", ["b"]);
  const chat = await connect("a");
  const [conversation] = chat.conversations;
  await conversation.loadOlder();
  server.network.refuse = 1;
  server.cut();
  for (let n = 0; n < 40; n++) server.send("b", { conversationId: room.id, content: String(n) });
  const reset = conversation.events("reset");
  server.network.refuse = 0;
  await reset.next();
  assert.deepEqual(conversation.messages.map(({ id }) => id), room.messages.map(({ id }) => id));
  assert.equal(conversation.unreadCount, 40);
});

promise("what mentions one is listed page by page, and counted by the server", async (server, connect) => {
  const room = server.create("a", ["b"]);
  const sent = [["a"], [], ["a"]].map((mentions) => server.send("b", { conversationId: room.id, content: "x", mentions }));
  const a = await connect("a");
  const first = await a.mentions({ limit: 1 });
  const second = await a.mentions({ limit: 1, cursor: first.next });
  assert.deepEqual([...first.items, ...second.items].map(({ id }) => id), [sent[2].id, sent[0].id]);
  assert.equal(second.next, null);
  assert.deepEqual(await a.unread(), { unreadCount: 3, mentionCount: 2 });
});

promise("mentions are counted apart, through edits, deletions and reading, also those that are not loaded", async (server, connect) => {
  const room = server.create("a", ["b", "c"]);
  server.send("b", { conversationId: room.id, content: "before", mentions: ["a"] });
  const [a, b] = [await connect("a"), await connect("b")];
  const [here, there] = [a.conversations[0], b.conversations[0]];
  assert.deepEqual([here.mentionCount, there.mentionCount], [1, 0]);
  const sent = await there.send("all", { mentionAll: true, mentions: ["c"] }).whenSent();
  await there.send("c alone", { mentions: ["c"] }).whenSent();
  await until(() => here.unreadCount === 3);
  assert.deepEqual([here.mentionCount, a.mentionCount, there.mentionCount, sent.isMention], [2, 2, 0, false]);
  assert.deepEqual(here.messages.map(({ isMention }) => isMention).slice(-2), [true, false]);
  await sent.edit("c", { mentionAll: false });
  await until(() => here.mentionCount === 1);
  await there.messages.find(({ id }) => id === sent.id).edit("a", { mentions: ["a"] });
  await until(() => here.mentionCount === 2);
  await there.messages.find(({ id }) => id === sent.id).edit("a, edited");
  await until(() => contents(here).includes("a, edited"));
  assert.equal(here.mentionCount, 2);
  here.markRead(here.messages.find(({ content }) => content === "before")?.seq ?? 2);
  await until(() => here.mentionCount === 1);
  await there.messages.find(({ id }) => id === sent.id).delete();
  await until(() => here.mentionCount === 0);
  assert.equal(here.unreadCount, 1);
});

promise("replies are in their threads, and unread for those who follow them", async (server, connect) => {
  const room = server.create("a", ["b"]);
  const [a, b] = [await connect("a"), await connect("b")];
  const [here, there] = [a.conversations[0], b.conversations[0]];
  const mine = await here.send("mine").whenSent();
  const theirs = await there.send("theirs").whenSent();
  await until(() => here.messages.some(({ id }) => id === theirs.id));
  here.markRead();
  for (const n of [0, 1, 2]) {
    await there.send(`to mine ${n}`, { threadId: mine.id }).whenSent();
    await there.send(`to theirs ${n}`, { threadId: theirs.id, alsoInConversation: n === 1 }).whenSent();
  }
  await until(() => here.allMessages.at(-1)?.content === "to theirs 2");
  assert.deepEqual(contents(here), ["mine", "theirs", "to theirs 1"]);
  assert.deepEqual(contents(there), contents(here));
  assert.deepEqual(here.replies(mine.id).map(({ content }) => content), ["to mine 0", "to mine 1", "to mine 2"]);
  assert.deepEqual([here.isFollowing(mine.id), here.isFollowing(theirs.id), here.unreadCount], [true, false, 4]);
  const seen = [];
  here.on("thread", ({ thread }) => seen.push(thread.version));
  const state = { conversationId: room.id, readSeq: 0, unreadCount: 0, lastReplySeq: here.head };
  for (const [threadId, isFollowing, version, unread] of [[mine.id, false, 2, 1], [mine.id, true, 1, 1], [theirs.id, true, 3, 3], [mine.id, true, 4, 6]]) {
    here.onThread({ ...state, threadId, isFollowing, version });
    assert.equal(here.unreadCount, unread);
  }
  assert.deepEqual(seen, [2, 3, 4]);
  const pending = here.send("on its way", { threadId: theirs.id });
  const has = (messages) => messages.some(({ key }) => key === pending.key);
  assert.deepEqual([has(here.replies(theirs.id)), has(here.messages)], [true, false]);
  assert.equal((await pending.whenSent()).threadId, theirs.id);
  const other = await there.send("another").whenSent();
  await there.send("to those who follow", { threadId: other.id }).whenSent();
  await there.send("to all", { threadId: other.id, mentionAll: true }).whenSent();
  await until(() => here.allMessages.at(-1)?.content === "to all");
  here.markRead(other.seq);
  assert.deepEqual([here.isFollowing(other.id), here.unreadCount, here.mentionCount], [false, 1, 1]);
  const c = await connect("a", {});
  const anew = c.conversations[0];
  while (!anew.isComplete) await anew.loadOlder({ limit: 2 });
  assert.deepEqual(contents(anew), contents(here));
  for (const { id } of [mine, theirs]) assert.deepEqual(anew.replies(id).map((one) => one.id), here.replies(id).map((one) => one.id));
});

promise("what another device has done with a thread meanwhile counts, and so does what was lost", async (server, connect) => {
  server.create("a", ["b"]);
  const [a, b] = [await connect("a"), await connect("b")];
  const [here, there] = [a.conversations[0], b.conversations[0]];
  const mine = await here.send("mine").whenSent();
  here.markRead();
  await until(() => there.messages.some(({ id }) => id === mine.id));
  await there.send("to mine", { threadId: mine.id }).whenSent();
  await until(() => here.replies(mine.id).length === 1);
  for (const version of [1, 2, 3]) server.setThread("a", mine, true, version);
  await until(() => here.isFollowing(mine.id) && here.unreadCount === 1);
  for (const [isFollowing, version] of [[false, 4], [true, 5], [false, 2]]) {
    server.cut("a");
    server.setThread("a", mine, isFollowing, version);
    await until(() => here.isFollowing(mine.id) === isFollowing && here.unreadCount === Number(isFollowing));
  }
  const c = await connect("a", {});
  const anew = c.conversations[0];
  while (!anew.isComplete) await anew.loadOlder();
  await until(() => anew.unreadCount === 0 && !anew.isFollowing(mine.id));
});

promise("edits, deletions, members, names, typing and presence are seen by others", async (server, connect) => {
  server.create("a", ["b"]);
  const [a, b] = [await connect("a"), await connect("b")];
  const [here, there] = [a.conversations[0], b.conversations[0]];
  const sent = await here.send("hello").whenSent();
  await sent.edit("hello, edited");
  await until(() => contents(there)[0] === "hello, edited");
  await there.messages.at(-1).react("👍");
  await until(() => here.messages.at(-1).reactions.length === 1);
  assert.deepEqual(here.messages.at(-1).reactions, [{ emoji: "👍", count: 1, userIds: ["b"] }]);
  await there.messages.at(-1).unreact("👍");
  await until(() => here.messages.at(-1).reactions.length === 0);
  await here.messages.at(-1).delete();
  await here.messages.at(-1).delete();
  await until(() => there.messages.at(-1).deletedAt);
  here.startTyping();
  here.startTyping();
  await until(() => there.typing.length === 1);
  await until(() => there.typing.length === 0);
  assert.equal(server.calls.filter(([, name]) => name === "StartTyping").length, 1);
  await here.rename("a room");
  await until(() => there.name === "a room");
  await here.addMember("c");
  await until(() => there.members.length === 3);
  assert.deepEqual([here.role, there.role], ["Owner", "Member"]);
  assert.equal((await b.presence(["a", "z"]))[0].status, "Online");
  const removed = there.events("removed");
  await here.removeMember("b");
  assert.equal((await removed.next()).value.reason, "removed");
  assert.equal(b.conversations.length, 0);
  assert.deepEqual(await removed.next(), { done: true, value: undefined });
});

promise("an edit of a message that is not loaded is said, once", async (server, connect) => {
  server.create("a", ["b"]);
  const a = await connect("a");
  const old = await a.conversations[0].send("old").whenSent();
  const b = await connect("b");
  const heard = [];
  b.on("change", ({ message }) => heard.push([message.id, message.content]));
  assert.deepEqual(contents(b.conversations[0]), []);
  await old.edit("new");
  await until(() => heard.length);
  server.cut();
  await nap(200);
  assert.deepEqual(heard, [[old.id, "new"]]);
  assert.deepEqual(contents(b.conversations[0]), []);
});

promise("a conversation that is made is there for all its members", async (server, connect) => {
  const [a, b] = [await connect("a"), await connect("b")];
  const heard = b.messages();
  const conversation = await a.createGroup({ name: "new", memberIds: ["b"] });
  conversation.send("first");
  assert.equal((await heard.next()).value.message.content, "first");
  assert.equal(b.conversations[0].name, "new");
  await b.conversations[0].loadOlder();
  assert.equal(b.conversations[0].messages.length, 2);
});

promise("pages of a conversation load before any event of it has come, also when the connection is lost meanwhile", async (server, connect) => {
  const [a, b] = [await connect("a"), await connect("b")];
  const heard = [];
  a.on("message", ({ message }) => heard.push(message.seq));
  const conversation = await a.createDirect("b");
  await conversation.loadOlder();
  assert.equal(conversation.isComplete, true);
  assert.deepEqual(conversation.messages.map(({ seq }) => seq), [1]);
  server.send("b", { conversationId: conversation.id, content: "live" });
  server.cut();
  server.send("b", { conversationId: conversation.id, content: "missed" });
  await until(() => heard.length === 2);
  const group = await a.createGroup({ name: "new", memberIds: ["b"] });
  server.cut();
  await group.loadOlder();
  server.send("b", { conversationId: group.id, content: "after" });
  await until(() => heard.length === 3);
  assert.deepEqual(heard, [2, 3, 2]);
  for (const [one, seqs] of [[conversation, [1, 2, 3]], [group, [1, 2]]]) assert.deepEqual(one.messages.map(({ seq }) => seq), seqs);
  assert.deepEqual((await b.conversations.find(({ id }) => id === group.id)?.page())?.messages.length, 2);
});

promise("what happens in a conversation is said when its name and members are known", async (server, connect) => {
  const a = await connect("a");
  const heard = [];
  a.on("message", ({ conversation }) => heard.push([conversation.name, conversation.memberCount]));
  const made = server.create("b", ["a"], { name: "named" });
  for (const one of server.connections) one.queue = one.queue.filter(({ message }) => message.target !== "ConversationChanged");
  server.send("b", { conversationId: made.id, content: "one" });
  await until(() => heard.length);
  assert.deepEqual(heard, [["named", 2]]);
});

promise("signals end what waits, and closing ends all of it", async (server, connect) => {
  server.create("a", []);
  const chat = await connect("a");
  await assert.rejects(chat.events("message", { signal: AbortSignal.abort() }).next(), { code: "aborted" });
  const waiting = chat.messages().next();
  server.network.refuse = 1;
  server.cut();
  const message = chat.conversations[0].send("never");
  const lost = message.whenSent();
  lost.catch(() => {});
  await chat.close();
  assert.equal((await waiting).done, true);
  await assert.rejects(lost, { code: "closed" });
  assert.throws(() => chat.conversations[0].send("x"), { code: "closed" });
  const stop = new AbortController();
  const connecting = connect("a", { signal: stop.signal });
  await nap(10);
  stop.abort();
  await assert.rejects(connecting, { code: "aborted" });
});

for (const kind of UNUSABLE)
  promise(`a store that is ${kind} begins anew, and is used from then on`, (server) => beginsAnew(kind, new MemoryStore(), server));

promise("what another user's tab writes to a store of the same name is not taken for one's own", async (server, connect) => {
  const room = server.create("a", ["b"]);
  const store = new MemoryStore();
  const theirs = await connect("a", { store });
  let mine = await connect("b", { store }); // begins the store anew
  await nap();
  server.network.refuse = 1;
  server.cut("a");
  theirs.conversations[0].send("of a");
  await nap();
  await theirs.close();
  await mine.close();
  server.network.refuse = 0;
  mine = await connect("b", { store });
  await mine.whenLive();
  assert.equal(mine.pendingCount, 0);
  await nap();
  assert.deepEqual(contents(room), []);
  assert.deepEqual([mine.conversations.length, mine.unreadCount], [1, 0]);
});

promise("a store that cannot be used at all is warned of once", async (server, connect) => {
  server.create("a", []);
  const fail = async () => Promise.reject(new Error("full"));
  for (const store of [{ ...memory(), write: fail }, { load: fail, write: fail, clear: fail }]) {
    const chat = await connect("a", { store });
    const errors = [];
    chat.on("error", ({ error }) => errors.push(error.code));
    await chat.conversations[0].send("1").whenSent();
    await chat.conversations[0].send("2").whenSent();
    await nap();
    assert.ok(errors.length <= 1);
  }
});

function memory() {
  const store = new MemoryStore();
  return { load: () => store.load(), write: (changes) => store.write(changes), clear: () => store.clear() };
}

/** Put something in place of a global for the time of a test. */
async function withGlobals(globals, body) {
  const before = Object.keys(globals).map((name) => [name, Object.getOwnPropertyDescriptor(globalThis, name)]);
  for (const [name, value] of Object.entries(globals)) Object.defineProperty(globalThis, name, { value, configurable: true, writable: true });
  try {
    await body();
  } finally {
    for (const [name, descriptor] of before)
      if (descriptor) Object.defineProperty(globalThis, name, descriptor);
      else delete globalThis[name];
  }
}

promise("while it waits for a server that is away the application hears of it", async (server, connect) => {
  server.create("a", []);
  const states = [];
  let refusals = 2;
  const fetch = (...args) => (refusals-- > 0 ? Promise.reject(new TypeError("fetch failed")) : server.fetch(...args));
  await connect("a", { fetch, onState: ({ state, reason }) => states.push([state, reason?.code]) });
  const away = [["offline", "network"], ["connecting", undefined]];
  assert.deepEqual(states, [...away, ...away, ["catching_up", undefined], ["live", undefined]]);
});

promise("while the machine is offline nothing is tried, and when it is online again, at once", async (server, connect) => {
  server.create("a", []);
  const machine = new EventTarget();
  const navigator = { onLine: true };
  await withGlobals({ navigator, addEventListener: machine.addEventListener.bind(machine) }, async () => {
    const chat = await connect("a");
    navigator.onLine = false;
    machine.dispatchEvent(new Event("offline"));
    await until(() => chat.state === "offline");
    const before = server.requests.length;
    await nap(10 * 3_600_000);
    chat.reconnect();
    await nap(60_000);
    assert.deepEqual([chat.state, server.requests.length], ["offline", before]);
    const message = chat.conversations[0].send("of then");
    navigator.onLine = true;
    machine.dispatchEvent(new Event("online"));
    await nap(50);
    assert.equal(chat.state, "live");
    assert.equal((await message.whenSent()).status, "sent");
    await chat.close();
  });
});

/** As Web Locks: each name is held by one at a time, the next in turn. */
class FakeLocks {
  #last = new Map();

  async request(name, options, body = options) {
    const before = this.#last.get(name);
    let resolve = () => {};
    this.#last.set(name, new Promise((settle) => (resolve = settle)));
    const aborted = new Promise((_, reject) => options.signal?.addEventListener("abort", () => reject(options.signal.reason)));
    try {
      await Promise.race([before, ...(options.signal ? [aborted] : [])]);
      return await body();
    } finally {
      resolve(before); // one that waits no more lets no other in before its turn
    }
  }
}

for (const locks of [new FakeLocks(), undefined])
  promise(`what a tab that was closed had to send is sent by ${locks ? "another, with Web Locks" : "the next, without them"}`, async (server, connect) => {
    const room = server.create("a", []);
    const store = Object.assign(new MemoryStore(), { scope: "shared" });
    const sent = () => room.messages.filter(({ type }) => type === "Text").map(({ content }) => content);
    const { WebSocket } = server;
    const isDown = new Set();
    const options = (name) => ({
      store,
      WebSocket,
      fetch: async (...args) => {
        if (isDown.has(name)) throw new TypeError("fetch failed");
        return server.fetch(...args);
      },
    });
    await withGlobals({ navigator: { locks, onLine: true } }, async () => {
      const first = await connect("a", options("first"));
      await nap();
      isDown.add("first");
      server.cut();
      first.conversations[0].send("1");
      first.conversations[0].send("2");
      await nap();
      const second = await connect("a", options("second"));
      await second.whenLive();
      await nap(1000);
      if (locks) assert.deepEqual(sent(), []); // the first is there, and sends its own
      await first.close();
      await until(() => sent().length === 2);
      await nap(1000);
      assert.deepEqual(sent(), ["1", "2"]);
      assert.deepEqual(contents(second.conversations[0]), ["1", "2"]);
      await second.close();
      assert.deepEqual([...(await store.load()).keys()].filter((key) => key.startsWith("q/")), []);
    });
  });

/** As BroadcastChannel: all of one name hear each other, and not themselves. */
function fakeChannels() {
  const all = new Set();
  return class {
    constructor(name) {
      this.name = name;
      all.add(this);
    }
    postMessage(data) {
      for (const each of all) if (each !== this && each.name === this.name) queueMicrotask(() => each.onmessage?.({ data }));
    }
    close() {
      all.delete(this);
    }
  };
}

promise("what a tab writes and leaves behind is sent by those that were there before it and after", async (server, connect) => {
  const room = server.create("a", []);
  const store = Object.assign(new MemoryStore(), { scope: "shared" });
  const sent = () => room.messages.filter(({ type }) => type === "Text").map(({ content }) => content);
  const isDown = new Set();
  const fetch = (name) => async (...args) => {
    if (isDown.has(name)) throw new TypeError("fetch failed");
    return server.fetch(...args);
  };
  await withGlobals({ navigator: { locks: new FakeLocks(), onLine: true }, BroadcastChannel: fakeChannels() }, async () => {
    const before = await connect("a", { store, fetch: fetch("before") });
    const tab = await connect("a", { store, fetch: fetch("tab") });
    const after = await connect("a", { store, fetch: fetch("after") });
    await nap();
    for (const left of [[before, after], [after]]) {
      const each = left.length === 2 ? tab : before;
      const name = left.length === 2 ? "tab" : "before";
      isDown.add(name);
      server.cut();
      await until(() => each.state !== "live" && left.every(({ state }) => state === "live"));
      each.conversations[0].send(`of ${name}`);
      await nap();
      await each.close();
      await until(() => sent().includes(`of ${name}`));
    }
    await nap(1000);
    assert.deepEqual(sent(), ["of tab", "of before"]);
    assert.deepEqual(contents(after.conversations[0]), ["of tab", "of before"]);
    await after.close();
  });
});

promise("a file goes up through the server, or into the file store, with progress, and is sent", async (server, connect) => {
  server.create("a", []);
  const requests = [];
  const stored = { id: "f1", key: "k1", url: "/files/k1", name: "note.txt", size: 5 };
  const answers = {
    "POST /api/files/upload": stored,
    "POST /api/files/presign": { id: "f1", uploadUrl: "http://store/put", method: "PUT", headers: { "x-checked": "1" } },
    "PUT /put": {},
    "POST /api/files/f1/complete": stored,
  };
  const fetch = async (url, options = {}) => {
    const { host, pathname } = new URL(url);
    const answer = answers[`${options.method} ${pathname}`];
    if (!answer) return server.fetch(url, options);
    requests.push({ host, name: `${options.method} ${pathname}`, ...options });
    return new Response(JSON.stringify(answer));
  };
  const chat = await connect("a", { fetch });
  const file = new Blob(["hello"], { type: "text/plain" });
  const progress = [];
  const onProgress = (...args) => progress.push(args);
  assert.deepEqual(await chat.files.upload(file, { name: "note.txt", onProgress }), stored);
  assert.deepEqual(progress, [[0, 5], [5, 5]]);
  const [{ body, headers }] = requests.splice(0);
  assert.deepEqual([body.get("file").name, body.get("file").size, Boolean(headers["Idempotency-Key"])], ["note.txt", 5, true]);

  await chat.files.upload(file, { name: "note.txt", presigned: true });
  assert.deepEqual(requests.map(({ name }) => name), ["POST /api/files/presign", "PUT /put", "POST /api/files/f1/complete"]);
  const [presign, put] = requests;
  assert.deepEqual(JSON.parse(presign.body), { name: "note.txt", contentType: "text/plain", size: 5 });
  assert.deepEqual([put.host, put.headers["x-checked"], put.headers.Authorization], ["store", "1", undefined]);

  class FakeRequest {
    upload = {};
    status = 200;
    responseText = JSON.stringify(stored);
    open(...args) {
      FakeRequest.opened.push(args.join(" "));
    }
    setRequestHeader() {}
    send() {
      this.upload.onprogress({ loaded: 2, total: 5 });
      setTimeout(() => this.onload(), 1);
    }
    abort() {
      this.onabort();
    }
  }
  FakeRequest.opened = [];
  await withGlobals({ XMLHttpRequest: FakeRequest }, async () => {
    progress.length = 0;
    await chat.files.upload(file, { onProgress });
    await chat.files.upload(file, { onProgress, presigned: true });
    assert.deepEqual(progress, [[0, 5], [2, 5], [5, 5], [0, 5], [2, 5], [5, 5]]);
    assert.deepEqual(FakeRequest.opened, ["POST http://server/api/files/upload", "PUT http://store/put"]);
    const stop = new AbortController();
    const uploading = chat.files.upload(file, { onProgress: (sent) => sent === 2 && queueMicrotask(() => stop.abort()), signal: stop.signal });
    await assert.rejects(uploading, { code: "aborted" });
  });
  await chat.conversations[0].send("see", { type: "File", fileId: stored.id }).whenSent();
  assert.equal(server.calls.findLast(([, name]) => name === "SendMessage")[2][0].fileId, "f1");
});

promise("replies, pages before and after a message, and who has received it", async (server, connect) => {
  const room = server.create("a", ["b"]);
  const receipts = { items: [{ userId: "b", status: "Read" }], next: null };
  const asked = [];
  const fetch = async (url, options) => {
    const { pathname, searchParams } = new URL(url);
    if (!pathname.endsWith("/receipts")) return server.fetch(url, options);
    asked.push([pathname, searchParams.get("limit"), searchParams.get("cursor")]);
    return new Response(JSON.stringify(receipts));
  };
  const [conversation] = (await connect("a", { fetch })).conversations;
  const { id } = await conversation.send("1").whenSent();
  const reply = await conversation.send("2", { replyToId: id }).whenSent();
  assert.deepEqual([reply.replyToId, room.messages.at(-1).replyToId], [id, id]);
  for (let n = 3; n <= 12; n++) server.send("b", { conversationId: room.id, content: String(n) });
  await until(() => conversation.messages.length === 12);
  const keys = conversation.messages.map(({ key }) => key);
  const after = await conversation.page({ after: 2, limit: 4 });
  assert.deepEqual(after.messages.map(({ content }) => content), ["2", "3", "4", "5"]);
  const next = await conversation.page({ after: after.next, limit: 4 });
  assert.deepEqual(next.messages.map(({ content }) => content), ["6", "7", "8", "9"]);
  assert.equal((await conversation.page({ after: 10 })).next, null);
  const before = await conversation.page({ before: 4, limit: 2 });
  assert.deepEqual([before.messages.map(({ content }) => content), before.next], [["2", "1"], 2]);
  assert.deepEqual(conversation.messages.map(({ key }) => key), keys);
  assert.deepEqual(await conversation.receipts(id, { limit: 5, cursor: "x" }), receipts);
  assert.deepEqual(asked, [[`/api/messages/${id}/receipts`, "5", "x"]]);
});

promise("what is no message of a hub ends the connection, and the next one has all that was missed", async (server, connect) => {
  const room = server.create("a", ["b"]);
  const a = await connect("a");
  const heard = [];
  const nonsense = ["null", "7", '""', "[]", "{", ""];
  for (const target of ["ReceiveMessage", "MessageChanged", "Resync", "ConversationChanged", "ThreadChanged", "MessageStatusUpdated", "UserStartedTyping"])
    for (const args of ["[null]", "7", "{}"]) nonsense.push(`{"type":1,"target":"${target}","arguments":${args}}`);
  a.on("state", ({ state }) => heard.push(state));
  for (const [index, text] of nonsense.entries()) {
    const [connection] = server.connections;
    connection.client.text(`${text}\x1e`);
    server.send("b", { conversationId: room.id, content: String(index) });
    await until(() => contents(a.conversation(room.id)).at(-1) === String(index));
    await a.whenLive();
  }
  assert.deepEqual(contents(a.conversation(room.id)), nonsense.map((_, index) => String(index)));
  assert.equal(a.conversations.length, 1);
  assert.ok(heard.includes("offline"));
});

promise("answers that are none are asked for again", async (server, connect) => {
  const room = server.create("a", ["b"]);
  const { invoke, fetch } = server;
  const nonsense = [null, 7, {}, { conversations: null }, { conversations: [null] }];
  const pages = ["", "null", "<html>", "{}", '{"items":null}'];
  server.invoke = (connection, name, args) => (name === "Sync" && nonsense.length ? nonsense.pop() : invoke.call(server, connection, name, args));
  const answer = async (url, options) => (new URL(url).pathname === "/api/conversations" && !nonsense.length && pages.length ? new Response(pages.pop()) : fetch(url, options));
  const a = await connect("a", { fetch: answer });
  await until(() => a.conversation(room.id)?.members.length === 2);
  assert.deepEqual([nonsense, pages, a.conversations.map(({ id }) => id)], [[], [], [room.id]]);
});

promise("what can be no server is said at once", async (_, connect) => {
  for (const url of ["localhost:5000", "chat.example", "ftp://chat.example", "", "http://"])
    await assert.rejects(connect("a", { url }), { name: "ParleyError", code: "invalid_request", message: /https:\/\/chat\.example/ });
});

promise("a conversation that is read anew when it has to be once more is shown in the end", async (server, connect) => {
  const room = server.create("a", ["b"]);
  let isBroken = false;
  const fetch = async (url, options) => {
    if (isBroken && new URL(url).pathname === "/api/messages") throw new TypeError("fetch failed");
    return server.fetch(url, options);
  };
  const a = await connect("a", { fetch });
  const conversation = a.conversation(room.id);
  server.publish = () => {}; // its event does not come
  await conversation.send("mine").whenSent();
  delete server.publish;
  const resync = () => [...server.connections].forEach((one) => one.event("Resync", { conversationId: room.id, ...server.head(room) }, room.id));
  isBroken = true;
  resync();
  await until(() => conversation.isResetting);
  await nap(16 * 60_000); // by then it is not remembered that it was sent
  resync();
  await nap();
  isBroken = false;
  server.send("b", { conversationId: room.id, content: "theirs" });
  await until(() => !conversation.isResetting);
  await until(() => contents(conversation).includes("theirs"));
});

promise("what a store could not write once is written with what comes next", async (server, connect) => {
  const room = server.create("a", ["b"]);
  const store = new MemoryStore();
  const fails = { is: true };
  const faulty = { load: () => store.load(), clear: () => store.clear(), write: async (changes) => (fails.is ? Promise.reject(new Error("full")) : store.write(changes)) };
  const a = await connect("a", { store: faulty });
  await until(() => a.conversation(room.id));
  await nap();
  server.network.refuse = 1;
  server.cut();
  await nap();
  a.conversation(room.id).send("kept");
  await nap();
  fails.is = false;
  a.conversation(room.id).send("kept, too");
  await nap();
  const kept = await store.load();
  assert.deepEqual([...kept.values()].map(({ content }) => content).filter(Boolean).sort(), ["kept", "kept, too"]);
  assert.ok(kept.has("meta"));
  fails.is = true;
  server.network.refuse = 0;
  a.reconnect();
  await a.flush();
  await nap();
  fails.is = false;
  await a.close();
  assert.deepEqual([...(await store.load()).keys()].filter((key) => key.startsWith("q/")), []);
});

promise("a message that goes over REST waits, as others do, while no token is taken", async (server, connect) => {
  const room = server.create("a", ["b"]);
  const token = tokenOf("a");
  const a = await connect("a", { token: () => token });
  server.refused.add(token); // the connection lasts
  const sent = a.conversation(room.id).send("x".repeat(5000));
  await until(() => server.requests.filter(([method, path]) => method === "POST" && path === "/api/messages").length > 2);
  assert.equal(a.conversation(room.id).messages.at(-1).status, "pending");
  server.refused.clear();
  await sent.whenSent();
});

promise("what was edited, is lost and is sent again by the next process is as it was edited", async (server, connect) => {
  const room = server.create("a", ["b"]);
  const store = new MemoryStore();
  const a = await connect("a", { store });
  await a.conversation(room.id).send("before").whenSent();
  await nap();
  await a.conversation(room.id).messages.at(-1).edit("after");
  await until(() => contents(a.conversation(room.id)).includes("after"));
  await a.close();
  server.goBack(room, 1);
  const again = await connect("a", { store });
  await until(() => contents(again.conversation(room.id)).length === 1 && !again.pendingCount);
  await until(() => room.messages.length === 2);
  assert.equal(room.messages[1].content, "after");
});

promise("a store that cannot be cleared, or says nothing of when it is, is written all the same", async (server, connect) => {
  const room = server.create("a", ["b"]);
  const refuse = () => {
    throw new Error("broken");
  };
  for (const clear of [refuse, () => {}]) {
    let writes = 0;
    const a = await connect("a", { store: { load: refuse, write: async () => void writes++, clear } });
    await a.conversation(room.id).send("hi").whenSent();
    await until(() => writes);
  }
});

test("each store keeps the contract", async () => {
  const memory = new MemoryStore();
  await keepsTheContract(() => memory);
  const path = join(mkdtempSync(join(tmpdir(), "parley-")), "store.json");
  await keepsTheContract(() => new FileStore(path), { isShared: false });
  const items = new Map();
  const storage = {
    get length() {
      return items.size;
    },
    key: (index) => [...items.keys()][index],
    getItem: (key) => items.get(key) ?? null,
    setItem: (key, value) => items.set(key, value),
    removeItem: (key) => items.delete(key),
  };
  await keepsTheContract(() => new LocalStorageStore("mine", storage));
});

test("a file is always whole, and local storage keeps to its names", async () => {
  const path = join(mkdtempSync(join(tmpdir(), "parley-")), "store.json");
  const file = new FileStore(path);
  await file.write(new Map([["b", 2]]));
  assert.deepEqual(JSON.parse(readFileSync(path, "utf8")), { b: 2 });
  writeFileSync(path, "{");
  await assert.rejects(new FileStore(path).load());
  await file.clear();
  assert.equal((await new FileStore(path).load()).size, 0);

  const items = new Map([["other", "1"]]);
  const storage = {
    get length() {
      return items.size;
    },
    key: (index) => [...items.keys()][index],
    getItem: (key) => items.get(key) ?? null,
    setItem(key, value) {
      if (value.length > 20) throw new Error("full");
      items.set(key, value);
    },
    removeItem: (key) => items.delete(key),
  };
  const local = new LocalStorageStore("mine", storage);
  await local.write(new Map([["a", 1]]));
  await assert.rejects(local.write(new Map([["a", 2], ["b", "x".repeat(30)]])));
  assert.deepEqual(await local.load(), new Map([["a", 1]]));
  await local.clear();
  assert.deepEqual([...items.keys()], ["other"]);
});

test("the list of blocks is read until nothing later was heard, also after a history that went back", () =>
  time.run(
    (async () => {
      const life = new AbortController();
      const changes = [];
      let truth = ["a"];
      let failures = 1;
      let meanwhile = null;
      let asked = 0;
      const rest = {
        all: Rest.prototype.all,
        async get(_path, { query: { cursor } }) {
          asked++;
          if (failures-- > 0) throw new ParleyError("unavailable", "x");
          const items = (cursor ? truth.slice(1) : truth.slice(0, 1)).map((userId) => ({ userId, createdAt: "" }));
          const next = !cursor && truth.length > 1 ? "more" : null;
          await nap(1);
          meanwhile?.();
          return { items, next };
        },
      };
      const timing = { minPause: 1, maxPause: 5 };
      const blocks = new BlockList(rest, timing, life.signal, { onChange: () => changes.push([...blocks.ids]), onError: assert.fail });
      blocks.hear(0);
      blocks.hear();
      await nap();
      assert.deepEqual([asked, changes], [0, []]);
      blocks.hear(5);
      meanwhile = () => ((meanwhile = null), (truth = ["a", "b"]), blocks.hear(6));
      await until(() => blocks.ids.size === 2);
      assert.deepEqual(changes.at(-1), ["a", "b"]);
      const before = asked;
      blocks.hear(6);
      await nap();
      assert.equal(asked, before);
      truth = ["a"];
      blocks.hear(4); // PostgreSQL has come back with less
      await until(() => blocks.ids.size === 1);
      blocks.set("c", true);
      blocks.set("c", true);
      assert.deepEqual(changes.slice(-2), [["a"], ["a", "c"]]);
      life.abort();
    })(),
  ));

test("an error says until when something is forbidden", () => {
  const { code, until } = errorOfHub('muted: Not now.\n{"until":"2099-01-01T00:00:00.000Z"}');
  assert.deepEqual([code, until], ["muted", "2099-01-01T00:00:00.000Z"]);
});

test("errors are typed", () => {
  assert.ok(new ParleyError("network", "x") instanceof Error);
});
