/**
 * Chats over a hostile network against the model of a server: connections refused, cut, dead and drained, answers lost,
 * events and frames twice or late, histories that go back, clients that crash and come back with their store. After
 * quiet every client's lists equal the truth. SEEDS says how many runs, SEED which is the first, or which ones: "1,7".
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { MemoryStore, Parley } from "../src/index.js";
import { VirtualTime } from "./virtual-time.js";
import { CALM, FakeServer, ROUGH, random, tokenOf } from "./fake-server.js";

const CHOSEN = (process.env.SEED ?? "0").split(",").map(Number);
const FIRST = CHOSEN[0] || Math.floor(Math.random() * 1e9);
const SEEDS = CHOSEN.length > 1 ? CHOSEN : Array.from({ length: Number(process.env.SEEDS ?? 3) }, (_, index) => FIRST + index);
const STEPS = 120;
const WITHIN = 20_000; // ms of virtual time
const TIMING = {
  minPause: 2, maxPause: 50, call: 500, open: 500, ping: 20, silence: 100, gather: 3, delivered: 5, typing: 5, recent: 600_000,
};
const USERS = ["a", "b", "c"];
const GHOST = "ghost"; // writes at the server, without a client

const time = new VirtualTime();
time.install();
const nap = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** A store that can be cut off from its client, as by a crash. */
class Crashable {
  constructor(store = new MemoryStore()) {
    this.store = store;
    this.isLost = false;
  }
  load() {
    return this.store.load();
  }
  async write(changes) {
    await nap(0);
    if (!this.isLost) await this.store.write(changes);
  }
  clear() {
    return this.store.clear();
  }
}

/** A device of a user, with one chat after another. */
class Device {
  constructor(world, user, isKeeping) {
    Object.assign(this, { world, user, isKeeping, store: new Crashable(), chat: null, sent: [], problems: [] });
  }

  async open() {
    const { server } = this.world;
    while (!this.world.isOver) {
      try {
        this.chat = await Parley.connect({
          url: "http://server", token: () => tokenOf(this.user), fetch: server.fetch, WebSocket: server.WebSocket,
          transports: ["websocket"], store: this.store, keep: 5, timing: TIMING,
        });
        break;
      } catch (error) {
        if (!error.isPassing) this.problems.push(error);
        await nap(3);
      }
    }
    this.chat.on("error", ({ error }) => this.problems.push(error));
    this.chat.on("update", ({ conversation }) => this.look(conversation));
  }

  /** What holds at every moment: in order, nothing twice. */
  look(conversation) {
    const messages = conversation.messages;
    const seqs = messages.map(({ seq }) => seq).filter((seq) => seq > 0);
    const keys = messages.map(({ key }) => key);
    if (new Set(keys).size !== keys.length) this.problems.push(new Error(`twice: ${keys}`));
    // Of a history that has gone back, unnoticed as yet, an answer may have a seq that was given before.
    if (!this.world.goesBack && seqs.some((seq, index) => index > 0 && seq <= seqs[index - 1])) this.problems.push(new Error(`out of order: ${seqs}`));
  }

  send(conversation, content) {
    const message = conversation.send(content);
    assert.equal(message.status, "pending");
    assert.equal(conversation.messages.filter(({ key }) => key === message.key).length, 1);
    this.sent.push({ conversationId: conversation.id, key: message.key, content });
  }

  async reload({ crash }) {
    const old = this.chat;
    if (crash) {
      this.store.isLost = true;
      const kept = await this.store.load();
      const isSure = ({ key }) => kept.has(`q/${key}`) || this.world.server.sends.has(`${this.user}/${key}`);
      this.sent = this.sent.filter(isSure);
    }
    await old.close();
    this.store = new Crashable(this.isKeeping ? this.store.store : new MemoryStore());
    await this.open();
  }
}

async function act(world, dice) {
  const { server, devices } = world;
  const device = dice.pick(devices);
  const conversation = dice.pick(device.chat.conversations);
  const truth = dice.pick([...server.conversations.values()]);
  switch (dice.below(16)) {
    default:
      if (conversation && device.chat.state !== "closed") device.send(conversation, `${device.user} ${++world.count}`);
      return;
    case 6:
    case 7:
      if (truth.members.has(GHOST)) server.send(GHOST, { conversationId: truth.id, content: `ghost ${++world.count}` });
      return;
    case 8: {
      const theirs = truth.messages.filter(({ senderId, type, deletedAt }) => senderId === GHOST && type === "Text" && !deletedAt);
      if (!theirs.length) return;
      if (dice.chance(0.7)) server.edit(GHOST, dice.pick(theirs).id, `edited ${++world.count}`);
      else server.delete(GHOST, dice.pick(theirs).id);
      return;
    }
    case 9: {
      const own = conversation?.messages.filter(({ isOwn, seq, type, deletedAt }) => isOwn && seq && type === "Text" && !deletedAt);
      if (!own?.length) return;
      const message = dice.pick(own);
      const done = dice.chance(0.7) ? message.edit(`edited ${++world.count}`) : message.delete();
      return void done.catch((error) => ["not_found", "gone", "closed", "aborted"].includes(error.code) || error.isPassing || device.problems.push(error));
    }
    case 10:
      return void conversation?.loadOlder({ limit: 3 }).catch(() => {});
    case 11:
      return conversation?.markRead();
    case 12: {
      const user = dice.pick(USERS);
      if (truth.members.has(user) && dice.chance(0.5) && truth.members.size > 2) server.removeMember(truth, GHOST, user);
      else server.addMember(truth, GHOST, user);
      return;
    }
    case 13:
      return dice.chance(0.5) ? server.cut(dice.chance(0.5) ? device.user : null) : server.drain();
    case 14:
      if (server.conversations.size < 8) server.create(GHOST, [device.user, dice.pick(USERS)]);
      else if (world.goesBack && dice.chance(0.5)) server.goBack(truth, Math.max(1, truth.lastSeq - dice.below(8)));
      return;
    case 15:
      if (world.goesBack && dice.chance(0.5)) server.goBack(truth, Math.max(1, truth.lastSeq - dice.below(8)));
      else if (device.isKeeping || device.chat.pendingCount === 0) await device.reload({ crash: !world.goesBack && dice.chance(0.5) });
  }
}

async function until(condition, what) {
  const end = Date.now() + WITHIN;
  for (;;) {
    const problem = await condition();
    if (!problem) return;
    if (Date.now() > end) assert.fail(`${what}: ${problem}`);
    await nap(5);
  }
}

const shown = ({ id, seq, changedSeq, content, deletedAt }) => `${seq} ${changedSeq} ${id.slice(-4)} ${content}${deletedAt ? " deleted" : ""}`;

async function compare(world, device) {
  const { chat, user } = device;
  const { server } = world;
  const busy = () => chat.state !== "live" || chat.pendingCount > 0 || chat.conversations.some(({ isResetting }) => isResetting);
  if (busy()) return `${chat.state}, ${chat.pendingCount} pending, ${chat.reason}`;
  const ids = chat.conversations.map(({ id }) => id).sort();
  const trueIds = server.mine(user).map(({ id }) => id).sort();
  if (String(ids) !== String(trueIds)) return `has ${ids}, not ${trueIds}`;
  for (const conversation of chat.conversations) {
    const truth = server.conversations.get(conversation.id);
    while (!conversation.isComplete) await conversation.loadOlder();
    if (busy()) return "busy again";
    const found = conversation.messages.map(shown);
    const wanted = truth.messages.map(shown);
    if (String(found) !== String(wanted)) return `shows\n${found.join("\n")}\nnot\n${wanted.join("\n")}`;
    if (conversation.messages.some(({ status }) => status === "pending" || status === "failed")) return "something is not sent";
    if (conversation.cursor.seq !== truth.lastSeq) return `cursor ${conversation.cursor.seq}, not ${truth.lastSeq}`;
    if (conversation.unreadCount !== server.unread(truth, user)) return `unread ${conversation.unreadCount}, not ${server.unread(truth, user)}; read ${conversation.readSeq}, not ${truth.members.get(user).readSeq} of ${truth.lastSeq}`;
    const members = conversation.members.map(({ userId }) => userId).sort();
    if (String(members) !== String([...truth.members.keys()].sort())) return `members ${members}`;
  }
  return null;
}

async function run(seed) {
  const dice = random(seed);
  const server = new FakeServer(dice);
  const world = { server, devices: [], count: 0, isOver: false, goesBack: dice.chance(0.5) };
  for (let n = 0; n < 3; n++) server.create(GHOST, USERS);
  const pings = setInterval(() => {
    for (const one of server.connections) if (one.hasShaken) one.write({ type: 6 });
  }, TIMING.silence / 5);
  try {
    for (const [index, user] of [...USERS, USERS[0]].entries()) world.devices.push(new Device(world, user, index !== 1));
    await Promise.all(world.devices.map((device) => device.open()));
    server.network = { ...ROUGH };
    for (let step = 0; step < STEPS; step++) {
      await act(world, dice);
      await nap(dice.next() * 4);
    }
    server.network = { ...CALM };
    for (const truth of server.conversations.values())
      if (truth.members.has(GHOST)) server.send(GHOST, { conversationId: truth.id, content: "the last one" });
    for (const device of world.devices) {
      for (const conversation of device.chat.conversations) for (const message of conversation.messages) message.retry();
      await until(async () => {
        for (const conversation of device.chat.conversations)
          for (const message of conversation.messages) if (message.status === "failed") message.discard();
        return compare(world, device);
      }, `seed ${seed}, ${device.user}`);
    }
    for (const device of world.devices) assert.equal(await compare(world, device), null);
    for (const device of world.devices) {
      assert.deepEqual(device.problems, [], `seed ${seed}`);
      for (const { conversationId, key, content } of device.sent) {
        const truth = server.conversations.get(conversationId);
        if (!truth.members.has(device.user) || world.goesBack) continue; // who was removed could not send all of it
        const found = truth.messages.filter(({ clientMessageId, senderId }) => clientMessageId === key && senderId === device.user);
        assert.ok(found.length <= 1, `seed ${seed}: ${content} is there ${found.length} times`);
      }
    }
    return world;
  } finally {
    world.isOver = true;
    clearInterval(pings);
    await Promise.all(world.devices.map(({ chat }) => chat?.close()));
  }
}

for (const seed of SEEDS) {
  test(`seed ${seed}: every client's lists equal the truth`, () => {
    time.install(random(seed).next);
    return time.run(run(seed));
  });
}
