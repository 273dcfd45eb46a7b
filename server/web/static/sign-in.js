/**
 * The page for those who are not signed in: only what this server offers.
 * @module
 */
import { h, replace } from "./dom.js";
import { explained } from "./explained.js";
import { goToProvider, offer, register, useToken } from "./session.js";
import { themeSwitch } from "./theme.js";

const NAMES = { google: "Google", github: "GitHub", gitlab: "GitLab", microsoft: "Microsoft", okta: "Okta" };

const EXPLAINED = {
  username_taken: "Somebody has this name already. Choose another one.",
  registration_closed: "Registration is closed here at the moment.",
  rate_limited: "Too many attempts. Wait a minute, then try again.",
  unavailable: "That does not answer at the moment. Try again in a minute.",
};

/** @param {{root: Element, notice: string, onSession: () => void}} options */
export function showSignIn({ root, notice, onSession }) {
  const problem = h("p", { class: "problem", role: "alert" });
  const parts = [];
  parts.push(...offer.providers.map((name) => provider(name, problem)));
  if (parts.length && offer.registration === "open") parts.push(h("p", { class: "or" }, h("span", { text: "or" })));
  if (offer.registration === "open") parts.push(registration(problem, onSession));
  const hasAny = parts.length > 0;
  if (!hasAny) parts.push(h("p", { text: "This server is not open to new people. Ask its operator for an access token." }));
  const main = h("main", { class: "sign-in" },
    h("div", { class: "sign-in-card" },
      h("h1", {}, h("span", { class: "brand", "aria-hidden": true }), "Parley"),
      h("p", { class: "lead", text: notice || "Sign in to talk." }),
      problem,
      ...parts,
      withToken(problem, onSession, !hasAny)),
    h("footer", {}, h("a", { href: "/docs", text: "For developers" }), themeSwitch()));
  document.title = "Sign in – Parley";
  replace(root, main);
  main.querySelector("input, button")?.focus();
}

function registration(problem, onSession) {
  const name = h("input", { id: "username", name: "username", required: true, maxLength: 64, autocomplete: "username", spellcheck: false, autocapitalize: "none", "aria-describedby": "username-hint" });
  const display = h("input", { id: "display", name: "display", maxLength: 128, autocomplete: "name" });
  const button = h("button", { type: "submit", class: "primary wide", text: "Join" });
  let key = crypto.randomUUID();
  return h("form", { class: "stack", on: { input: () => (key = crypto.randomUUID()), submit: (event) => attempt(event, button, problem, onSession, () => register(name.value.trim(), display.value.trim(), key), name) } },
    h("label", { for: "username", text: "Username" }), name,
    h("small", { id: "username-hint", text: "Letters, digits, and spaces or . _ - @ + between them. It stays yours." }),
    h("label", { for: "display" }, "Name that others see ", h("small", { text: "(optional)" })), display,
    button);
}

function provider(name, problem) {
  const shown = NAMES[name.toLowerCase()] ?? name[0].toUpperCase() + name.slice(1);
  const button = h("button", { type: "button", class: "primary wide", text: `Continue with ${shown}` });
  button.addEventListener("click", () => {
    button.disabled = true;
    problem.textContent = "";
    const again = () => (button.disabled = false);
    goToProvider(name).then(() => setTimeout(again, 3000), (error) => { // who comes back may want it again
      again();
      problem.textContent = EXPLAINED[error.code] ?? explained(error);
    });
  });
  return button;
}

function withToken(problem, onSession, isOpen) {
  const text = h("input", { id: "token", type: "password", required: true, autocomplete: "off", spellcheck: false });
  const button = h("button", { type: "submit", class: "wide", text: "Sign in with this token" });
  return h("details", { open: isOpen },
    h("summary", { text: "I have an access token" }),
    h("form", { class: "stack", on: { submit: (event) => attempt(event, button, problem, onSession, () => useToken(text.value), text) } },
      h("label", { for: "token", text: "Access token" }), text, button));
}

async function attempt(event, button, problem, onSession, signIn, field) {
  event.preventDefault();
  if (button.disabled) return;
  button.disabled = true;
  problem.textContent = "";
  try {
    await signIn();
    onSession();
  } catch (error) {
    problem.textContent = EXPLAINED[error.code] ?? explained(error);
    field.focus();
  } finally {
    button.disabled = false;
  }
}
