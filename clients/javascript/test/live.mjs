/**
 * People who chat with real servers, in one process: as many chats as the first line asks for, over several instances as
 * if behind a balancer. Reads commands as JSON lines, answers each with a line.
 */
import { createInterface } from "node:readline";
import { FileStore, Parley } from "../src/index.js";

const TIMING = { minPause: 50, maxPause: 1000, silence: 5000, ping: 1500, call: 20_000, delivered: 200 };

const say = (line) => process.stdout.write(JSON.stringify(line) + "\n");
const nap = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
process.on("unhandledRejection", (error) => say({ defect: `unhandled rejection: ${error?.stack ?? error}` }));
process.on("uncaughtException", (error) => say({ defect: `uncaught exception: ${error?.stack ?? error}` }));

/** Each new connection goes to one of the instances; what belongs to it follows. */
function balancer(ports) {
  const places = new Map();
  const route = (url) => {
    const found = new URL(url);
    const id = found.searchParams.get("id");
    const port = places.get(id) ?? ports[Math.floor(Math.random() * ports.length)];
    if (id) places.set(id, port);
    found.port = String(port);
    return found.href;
  };
  const Socket = globalThis.WebSocket;
  return {
    fetch: (url, options) => fetch(route(url), options),
    WebSocket: Socket && class extends Socket {
      constructor(url) {
        super(route(url));
      }
    },
  };
}

class Person {
  constructor({ id, token, transport, store }, ports) {
    Object.assign(this, { id, token, transport, store, sent: [], problems: [], states: {}, isTalking: false, number: 0 });
    this.way = balancer(ports);
  }

  async open() {
    for (;;)
      try {
        this.chat = await Parley.connect({
          url: "http://127.0.0.1:1", token: () => this.token, ...this.way, transports: [this.transport],
          store: new FileStore(this.store), timing: TIMING, keep: 50,
        });
        break;
      } catch (error) {
        if (!error.isPassing) throw error;
        await nap(200);
      }
    this.chat.on("error", ({ error }) => this.problems.push(`${error.code}: ${error.message}`));
    this.chat.on("failed", ({ error }) => this.problems.push(`failed: ${error.code}: ${error.message}`));
    this.chat.on("state", ({ state, reason }) => {
      this.states[state] = (this.states[state] ?? 0) + 1;
      if (state === "closed" && reason.code !== "closed") this.problems.push(`closed: ${reason.message}`);
    });
    this.chat.on("update", ({ conversation }) => {
      const keys = conversation.messages.map(({ key }) => key);
      if (new Set(keys).size !== keys.length) this.problems.push("a message is shown twice");
    });
  }

  async talk(pause) {
    this.isTalking = true;
    while (this.isTalking) {
      const list = this.chat.conversations;
      const conversation = list[Math.floor(Math.random() * list.length)];
      if (conversation && this.chat.state !== "closed" && this.chat.pendingCount < 20) {
        const content = `${this.id.slice(-4)} ${++this.number}`;
        this.sent.push({ conversation: conversation.id, key: conversation.send(content).key, content });
        if (this.number % 10 === 0) await this.editOne(conversation);
      }
      await nap(Math.random() * 2 * pause);
    }
  }

  async editOne(conversation) {
    const own = conversation.messages.filter(({ isOwn, seq, type }) => isOwn && seq && type === "Text");
    await own.at(-1)?.edit(`${own.at(-1).content}, edited`).catch((error) => {
      if (!error.isPassing && error.code !== "not_found") this.problems.push(`edit: ${error.code}: ${error.message}`);
    });
  }

  async reload() {
    await this.chat.close();
    await this.open();
  }

  get isSettled() {
    const { chat } = this;
    return chat.state === "live" && chat.pendingCount === 0 && !chat.conversations.some(({ isResetting }) => isResetting);
  }

  async settle() {
    while (!this.isSettled) await nap(50);
    for (const conversation of this.chat.conversations) while (!conversation.isComplete) await conversation.loadOlder({ limit: 200 });
  }

  report() {
    const lists = {};
    for (const conversation of this.chat.conversations) {
      lists[conversation.id] = conversation.messages.map(({ id, seq, content, status, key, deletedAt }) => [id, seq, content, status, key, deletedAt]);
    }
    const { sent, problems, states } = this;
    return { user: this.id, lists, sent, problems, states, pending: this.chat.pendingCount };
  }
}

const people = [];
const commands = {
  async open({ people: asked, ports }) {
    for (const each of asked) people.push(new Person(each, ports));
    await Promise.all(people.map((person) => person.open()));
    return people.length;
  },
  async talk({ pause }) {
    for (const person of people) void person.talk(pause);
  },
  async hush() {
    for (const person of people) person.isTalking = false;
    await nap(0);
  },
  async reload({ which }) {
    await people[which % people.length].reload();
  },
  async count() {
    return people.reduce((sum, { number }) => sum + number, 0);
  },
  /** Of all at one moment, in which none of them has anything on their way. Null when it has not come in time. */
  async report({ within }) {
    for (const end = Date.now() + within; Date.now() < end; ) {
      await Promise.race([Promise.all(people.map((person) => person.settle())), nap(Math.max(end - Date.now(), 0))]);
      if (people.every(({ isSettled }) => isSettled)) return people.map((person) => person.report());
    }
    return null;
  },
  /** What those have who are not settled. */
  async unsettled() {
    return people.filter(({ isSettled }) => !isSettled).map(({ id, transport, chat }) => ({
      id, transport, state: chat.state, reason: String(chat.reason), pending: chat.pendingCount,
      resetting: chat.conversations.filter(({ isResetting }) => isResetting).length,
    }));
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const [name, options = {}] = JSON.parse(line);
  commands[name](options).then(
    (value) => say({ answer: value ?? null }),
    (error) => say({ defect: String(error.stack) }),
  );
}
process.exit(0);
