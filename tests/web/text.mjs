// What the page makes of the text of messages, outside of a browser.
//     node text.mjs
// Ends with 0 when it does what it has to.
import { deepStrictEqual } from "node:assert";

const element = (tag) => ({ tag, dataset: {}, setAttribute: () => {}, getAttribute: () => null, append: () => {} });
Object.assign(globalThis, { addEventListener: () => {}, document: { createElement: element } });
const { formatted } = await import("../../server/web/static/text.js");

const shown = (text) => formatted(text).map((node) => (typeof node === "string" ? node : [node.textContent]));

// Punctuation behind an address is no part of it, nor is a bracket that was not opened there.
deepStrictEqual(shown("see (https://a.example/x)."), ["see (", ["https://a.example/x"], ")."]);
deepStrictEqual(shown("https://a.example/a_(b), and"), [["https://a.example/a_(b)"], ",", " and"]);
deepStrictEqual(shown("https://a.example/x.)?!"), [["https://a.example/x"], ".)?!"]);
deepStrictEqual(shown("https://a.example/(a.)"), [["https://a.example/(a.)"]]);

// Brackets without end take as long as any other text.
const links = 4000;
const found = shown(`https://a.example/${")".repeat(2000)} `.repeat(links));
deepStrictEqual(found.filter(Array.isArray), Array.from({ length: links }, () => ["https://a.example/"]));
