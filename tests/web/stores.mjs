// The stores of the JavaScript client in a real browser, outside of the page at `/`: IndexedDB and localStorage.
//     node stores.mjs CHROMIUM
// Ends with 0 when they do what they have to.
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { chromium } from "playwright-core";

const WITHIN = 300_000; // ms: long past anything but a hang
const CLIENT = new URL("../../clients/javascript/", import.meta.url);

// The modules as they are, and an empty page of their origin.
const files = createServer(async ({ url }, response) => {
  response.setHeader("Content-Type", url.endsWith(".js") ? "text/javascript" : "text/html");
  response.end(url.endsWith(".js") ? await readFile(new URL(`.${url}`, CLIENT)) : "<!doctype html><title>Stores</title>");
}).listen(0, "127.0.0.1");
await new Promise((resolve) => files.once("listening", resolve));
const browser = await chromium.launch({ executablePath: process.argv[2], timeout: WITHIN, args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"] });
const context = await browser.newContext();
context.setDefaultTimeout(WITHIN);

async function tab() {
  const page = await context.newPage();
  page.on("pageerror", (error) => {
    console.error(error);
    process.exitCode = 1;
  });
  await page.goto(`http://127.0.0.1:${files.address().port}/`);
  await page.evaluate(async () => {
    const parts = ["src/index.js", "test/stores.js", "test/fake-server.js"].map((path) => import(`/${path}`));
    Object.assign(globalThis, ...(await Promise.all(parts)));
    globalThis.until = async (condition) => {
      while (!(await condition())) await new Promise((resolve) => setTimeout(resolve, 10));
    };
    /** A chat of "a" on a server of this tab; with the same conversation in each. */
    globalThis.connect = async () => {
      globalThis.server = new FakeServer();
      globalThis.room = server.create("a", []);
      globalThis.chat = await Parley.connect({
        url: "http://server", token: () => tokenOf("a"), store: new IndexedDBStore("tabs"), fetch: server.fetch, WebSocket: server.WebSocket,
        timing: { minPause: 5, maxPause: 50, gather: 1 },
      });
      await chat.whenLive();
    };
  });
  return page;
}

try {
  const [here, there] = [await tab(), await tab()];

  await here.evaluate(async () => {
    await keepsTheContract(() => new IndexedDBStore("contract"));
    await keepsTheContract(() => new LocalStorageStore("contract"));
    for (const kind of UNUSABLE) await beginsAnew(kind, new IndexedDBStore(`begins anew: ${kind}`), new FakeServer());
  });

  // A database that is of a newer version, or has nothing of ours in it.
  await here.evaluate(async () => {
    for (const [name, version, use] of [["newer", 2, (database) => database.createObjectStore("entries")], ["empty", 1, () => {}]]) {
      const opening = indexedDB.open(name, version);
      opening.onupgradeneeded = () => use(opening.result);
      await new Promise((resolve) => (opening.onsuccess = resolve));
      opening.result.close();
      for (const kind of UNUSABLE.slice(0, 1)) {
        const store = new IndexedDBStore(name);
        equal(await store.load().then(() => "read", () => "not read"), "not read", name);
        await store.clear();
        await keepsTheContract(() => new IndexedDBStore(name));
        await beginsAnew(kind, new IndexedDBStore(name), new FakeServer());
      }
    }
  });

  // Two tabs with one store: what one writes the other reads, both may write, and one may throw it away.
  for (const page of [here, there]) await page.evaluate(() => (globalThis.store = new IndexedDBStore("two")).load());
  const write = (page, name) =>
    page.evaluate(async (name) => {
      for (let n = 0; n < 50; n++) await store.write(new Map([[`${name}${n}`, n], ["last", `${name}${n}`]]));
    }, name);
  await Promise.all([write(here, "here"), write(there, "there")]);
  for (const page of [here, there])
    await page.evaluate(async () => {
      const found = await new IndexedDBStore("two").load();
      equal([found.size, ["here49", "there49"].includes(found.get("last"))], [101, true], "what two tabs wrote");
    });
  await here.evaluate(() => new Promise((resolve) => (indexedDB.deleteDatabase("two").onsuccess = resolve)));
  await there.evaluate(async () => {
    await store.write(new Map([["a", 1]])).catch(() => {}); // it may be thrown away only now
    await until(async () => (await store.write(new Map([["a", 1]])), equal(await entriesOf(store), [["a", 1]], "thrown away"), true));
  });

  // What a tab had to send is sent by the other one, when it is closed: with the browser's own locks and channels.
  const [left, closed] = [await tab(), await tab()]; // new ones: their servers count alike
  await left.evaluate(() => connect());
  await closed.evaluate(async () => {
    await connect();
    server.network.refuse = 1;
    server.cut();
    await until(() => chat.state === "offline");
    chat.conversations[0].send("left behind");
    await until(async () => (await entriesOf(new IndexedDBStore("tabs"))).some(([key]) => key.startsWith("q/")));
  });
  await left.evaluate(() => equal(room.messages.length, 1, "while the tab is there"));
  await closed.close();
  await left.evaluate(async () => {
    await until(() => room.messages.some(({ content }) => content === "left behind"));
    await until(async () => !(await entriesOf(new IndexedDBStore("tabs"))).some(([key]) => key.startsWith("q/")));
    equal(room.messages.length, 2, "once");
    await chat.close();
  });
} finally {
  await browser.close();
  files.close();
}
