// A real browser that a test drives: one command a line on standard input, as JSON; one answer a line on standard output.
//     node browser.mjs ADDRESS
// of a Chromium that chromium.mjs has started.
// With TRACE in the environment, each command is printed on standard error as it begins.
// Each page belongs to a person of its own, with storage and cookies of their own. What a page complains about (errors,
// violations of its policy) is kept and asked for at the end.
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

const WITHIN = Number(process.env.WITHIN ?? 120_000); // ms: long past anything but a hang
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const browser = await chromium.connect(process.argv[2], { timeout: WITHIN });
const pages = new Map();
// What follows from a change is done a frame later; a page that is not seen may have no frames.
const PAINTED = "Promise.race([new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(null)))), new Promise((done) => setTimeout(done, 1000, null))])";

async function open({ name, url, width = 1280, height = 800, dark = false, phone = false, scale = 1, permissions = [] }) {
  const context = await browser.newContext({
    viewport: { width, height },
    colorScheme: dark ? "dark" : "light",
    deviceScaleFactor: scale,
    hasTouch: phone,
    isMobile: phone,
    locale: "en-GB",
    timezoneId: "UTC",
    permissions,
  });
  context.setDefaultTimeout(WITHIN);
  context.setDefaultNavigationTimeout(WITHIN);
  await add(context, name, url);
}

/** Another tab of the same browser: with the same storage and cookies. */
async function tab({ name, of, url }) {
  await add(pages.get(of).context, name, url);
}

async function add(context, name, url) {
  const page = await context.newPage();
  const faults = [];
  page.on("pageerror", (error) => faults.push(`error: ${error.stack ?? error}`));
  page.on("console", (message) => {
    if (message.type() !== "error" && message.type() !== "warning") return;
    // The browser itself says so of every request that an instance which was killed did not answer.
    if (/Failed to load resource|WebSocket connection to|net::ERR_/.test(message.text())) return;
    faults.push(`${message.type()}: ${message.text()}`);
  });
  pages.set(name, { page, context, faults, session: await context.newCDPSession(page) });
  if (url) await page.goto(url, { waitUntil: "domcontentloaded" });
}

const commands = {
  open,
  tab,
  leave: async ({ name, page }) => {
    await page.close();
    pages.delete(name);
  },
  close: async ({ name }) => {
    await pages.get(name).context.close();
    pages.delete(name);
  },
  goto: ({ page, url }) => page.goto(url, { waitUntil: "domcontentloaded" }).then(() => null),
  reload: ({ page }) => page.reload({ waitUntil: "domcontentloaded" }).then(() => null),
  click: ({ page, selector }) => page.locator(selector).first().click(),
  hover: ({ page, selector }) => page.locator(selector).first().hover(),
  fill: ({ page, selector, text }) => page.locator(selector).first().fill(text),
  press: ({ page, selector, key }) => (selector ? page.locator(selector).first().press(key) : page.keyboard.press(key)),
  wait: ({ page, selector, state = "visible" }) => page.locator(selector).first().waitFor({ state }),
  until: ({ session, expression }) => until(session, expression),
  evaluate: ({ session, expression }) => look(session, expression),
  texts: ({ page, selector }) => page.locator(selector).allInnerTexts(),
  files: ({ page, selector, paths }) => page.locator(selector).first().setInputFiles(paths),
  offline: ({ context, is }) => context.setOffline(is),
  // Pictures do not come, until they do.
  pictures: ({ page, come }) => (come ? page.unroute("**/*") : page.route("**/*", (route) => (route.request().resourceType() === "image" ? route.abort() : route.continue()))).then(() => null),
  // Requests for such addresses are refused, until they are not.
  refuse: ({ page, pattern, is }) => (is ? page.route(pattern, (route) => route.abort()) : page.unroute(pattern)).then(() => null),
  // This tab alone, which does not learn that it is.
  cut: ({ session, is }) => session.send("Network.emulateNetworkConditions", { offline: is, latency: 0, downloadThroughput: -1, uploadThroughput: -1 }).then(() => null),
  media: ({ page, dark }) => page.emulateMedia({ colorScheme: dark ? "dark" : "light" }),
  size: ({ page, session, width, height }) => page.setViewportSize({ width, height }).then(() => look(session, PAINTED)),
  shot: ({ page, path }) => page.screenshot({ path, animations: "disabled" }).then(() => null),
  front: ({ page }) => page.bringToFront(),
  // Runs in each document that this page opens from now on, before its own scripts.
  begin: ({ page, script }) => page.addInitScript({ content: script }).then(() => null),
  // Time passes as ever from now on, and at once when it is asked for.
  clock: ({ page }) => page.clock.install().then(() => null),
  later: ({ page, seconds }) => page.clock.fastForward(seconds * 1000).then(() => null),
  uncache: ({ session }) => session.send("Network.clearBrowserCache").then(() => null),
  trace: () => trace(),
  traced: () => traced(),
  faults: ({ faults }) => faults.splice(0),
  axe: async ({ session, long }) => {
    await look(session, CALM);
    if (!(await look(session, "Boolean(globalThis.axe)"))) await look(session, axe);
    if (!long) return violations(session, "document");
    return [
      ...(await violations(session, "document", 'rules: { "color-contrast": { enabled: false } }')),
      ...(await violations(session, `{ include: ${ONE_OF_EACH} }`, 'runOnly: ["color-contrast"]')),
    ];
  },
};

// Colours are judged as they are when what is moving has arrived.
const CALM = "void document.getAnimations().filter(({ effect }) => effect.getComputedTiming().iterations !== Infinity).forEach((one) => one.finish())";
const SEEN = "[location.hash, ...[...document.querySelectorAll('dialog, body')].map(({ innerText }) => innerText.slice(-1500)), ...[...document.querySelectorAll('input, textarea')].map(({ value }) => value).filter(Boolean)].join(' | ').replace(/\\s+/g, ' ')";

// By the debugger, which the page's policy does not concern.
async function look(session, expression) {
  const { result, exceptionDetails } = await session.send("Runtime.evaluate", { expression, awaitPromise: true, returnByValue: true });
  if (exceptionDetails) throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
  return result.value;
}

/** What axe finds wrong there. */
function violations(session, where, options = "") {
  return look(session, `axe.run(${where}, { resultTypes: ["violations"], ${options} }).then(({ violations }) => violations.map(({ id, help, nodes }) =>
    id + ": " + help + ": " + nodes.slice(0, 3).map(({ html, failureSummary }) => html.slice(0, 160) + " (" + failureSummary.replace(/\\s+/g, " ").slice(0, 200) + ")").join(" | ")))`);
}

// Of all texts that have the same colour and size, on the same grounds, the first: in a long page that takes most of the time.
const ONE_OF_EACH = `(() => {
  const grounds = new Map([[null, ""]]);
  const groundOf = (one) => {
    if (grounds.has(one)) return grounds.get(one);
    const { backgroundColor, backgroundImage, opacity } = getComputedStyle(one);
    const isClear = backgroundColor === "rgba(0, 0, 0, 0)" && backgroundImage === "none" && opacity === "1";
    const found = groundOf(one.parentElement) + (isClear ? "" : "/" + backgroundColor + backgroundImage + opacity);
    grounds.set(one, found);
    return found;
  };
  const found = new Map();
  for (const one of document.querySelectorAll("body *")) {
    if (!one.checkVisibility() || ![...one.childNodes].some(({ nodeType, data }) => nodeType === 3 && data.trim())) continue;
    const { color, fontSize, fontWeight } = getComputedStyle(one);
    const look = [groundOf(one), color, fontSize, fontWeight].join();
    if (!found.has(look)) found.set(look, one);
  }
  return [...found.values()];
})()`;

// What the main threads of all pages do, task by task: how long each took, and how long of that the processor worked on it.
let tracing = null;

async function trace() {
  tracing = await browser.newBrowserCDPSession();
  await tracing.send("Tracing.start", { transferMode: "ReturnAsStream", traceConfig: { includedCategories: ["toplevel"] } });
  return null;
}

async function traced() {
  const done = new Promise((resolve) => tracing.once("Tracing.tracingComplete", resolve));
  await tracing.send("Tracing.end");
  const { stream, dataLossOccurred } = await done;
  const parts = [];
  for (let eof = false; !eof; ) {
    const { data, base64Encoded, eof: isLast } = await tracing.send("IO.read", { handle: stream });
    parts.push(base64Encoded ? Buffer.from(data, "base64").toString() : data);
    eof = isLast;
  }
  await tracing.detach();
  if (dataLossOccurred) throw new Error("the trace is not whole");
  const { traceEvents } = JSON.parse(parts.join(""));
  const mains = new Set(traceEvents.filter(({ name, args }) => name === "thread_name" && args.name === "CrRendererMain").map(({ pid, tid }) => `${pid}/${tid}`));
  return traceEvents
    .filter(({ name, dur, tdur, pid, tid }) => name.endsWith("RunTask") && dur > 1000 && tdur !== undefined && mains.has(`${pid}/${tid}`))
    .map(({ dur, tdur }) => ({ took: dur / 1000, worked: tdur / 1000 })); // ms
}

async function until(session, expression) {
  const end = Date.now() + WITHIN;
  for (;;) {
    if (await look(session, `(async () => Boolean(await (${expression})))()`).catch(() => false)) return null;
    if (Date.now() > end) throw new Error("it did not become true");
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  const { id, command, ...given } = JSON.parse(line);
  if (process.env.TRACE) console.error(new Date().toISOString().slice(11, 19), command, JSON.stringify(given));
  // Commands of different pages run beside each other; those of one are asked for one after the other.
  void Promise.resolve()
    .then(() => commands[command]({ ...pages.get(given.name), ...given }))
    .then(
      (value) => ({ id, value: value ?? null }),
      async (error) => {
        // What everybody saw then says more than what was waited for.
        const seen = [];
        for (const [name, { page, session }] of pages) {
          await page.screenshot({ path: `shots/failed-${name}.png`, timeout: 60_000 }).catch(() => {});
          seen.push(`${name} sees: ${await look(session, SEEN).catch(String)}`);
        }
        return { id, error: [String(error.message ?? error), ...seen].join("\n") };
      },
    )
    .then((answer) => process.stdout.write(`${JSON.stringify(answer)}\n`));
}
await browser.close();
