/**
 * Who is signed in: the tokens of this browser, how they are got (registration, a provider, a token that one has), how
 * they are renewed, and how they end. All tabs share them: a refresh token is good once, so one tab renews at a time.
 * @module
 */
import { ParleyError } from "./client/errors.js";

const KEY = "parley.session";
const ATTEMPT = "parley.attempt";
const MARGIN = 60_000; // ms before its end at which an access token is renewed
const TIMEOUT = 20_000;

/** What the server offers: see server/web/offer.py. */
export const offer = JSON.parse(document.querySelector("meta[name=parley]").content);

/** The session of this browser, or null: `{accessToken, refreshToken, expiresAt, username}`. */
export function stored() {
  try {
    const found = JSON.parse(localStorage.getItem(KEY));
    return found && typeof found.accessToken === "string" ? found : null;
  } catch {
    return null;
  }
}

function keep(tokens) {
  const expiresAt = Date.now() + (tokens.expiresIn ?? 0) * 1000;
  const session = { accessToken: tokens.accessToken, refreshToken: tokens.refreshToken ?? null, expiresAt };
  localStorage.setItem(KEY, JSON.stringify(session));
  return session;
}

export function forget() {
  localStorage.removeItem(KEY);
}

/** Call back when another tab signs out, or in as somebody else. */
export function onOtherTab(then) {
  addEventListener("storage", ({ key, newValue, oldValue }) => {
    if (key === null || (key === KEY && userOf(newValue) !== userOf(oldValue))) then();
  });
}

function userOf(text) {
  try {
    return userOfToken(JSON.parse(text).accessToken);
  } catch {
    return null;
  }
}

export function userOfToken(accessToken) {
  try {
    return String(JSON.parse(atob(accessToken.split(".")[1].replace(/-/g, "+").replace(/_/g, "/"))).sub).toLowerCase();
  } catch {
    return null;
  }
}

const post = (path, body, headers = {}) => ask("POST", path, JSON.stringify(body), { "Content-Type": "application/json", ...headers });

async function ask(method, path, body, headers = {}) {
  let response;
  try {
    response = await fetch(path, {
      method,
      headers: { Accept: "application/json", ...headers },
      body,
      keepalive: true, // also when the page is left
      cache: "no-store",
      signal: AbortSignal.timeout(TIMEOUT),
    });
  } catch (error) {
    throw new ParleyError("network", "The server cannot be reached. Check the connection and try again.", { cause: error });
  }
  const text = await response.text();
  if (response.ok) return text ? JSON.parse(text) : null;
  let problem = {};
  try {
    problem = JSON.parse(text);
  } catch {
    // a proxy's page
  }
  const code = problem.code ?? (response.status >= 500 ? "unavailable" : "invalid_request");
  throw new ParleyError(code, problem.detail ?? `The server answered ${response.status}.`, { status: response.status, fields: problem.errors, until: problem.until });
}

/** Why the session does not go on; null: all but a server that refuses it leaves it as it is. */
export async function whySignedOut() {
  try {
    await ask("GET", "/api/users/me", undefined, { Authorization: `Bearer ${await tokenOtherThan("")}` });
    return null;
  } catch (error) {
    return error.code === "unauthenticated" || error.code === "banned" ? error : null;
  }
}

// -- getting in -----------------------------------------------------------------------------------------------------

/** Where registration is open. Pressed twice, or answered by a connection that was lost, it is the same user. */
export async function register(username, displayName, key) {
  return keep(await post("/api/users", { username, displayName: displayName || null }, { "Idempotency-Key": key }));
}

/** A token that somebody has been given: good until it ends. */
export async function useToken(text) {
  const accessToken = text.trim().replace(/^bearer\s+/i, "");
  const refused = (cause) => new ParleyError("unauthenticated", "The server does not take this token: it is not whole, or has ended.", { cause });
  if (!/^[\w.~+/=-]+$/.test(accessToken)) throw refused(); // no header can be made of it
  try {
    await ask("GET", "/api/users/me", undefined, { Authorization: `Bearer ${accessToken}` });
  } catch (error) {
    throw error.status === 401 ? refused(error) : error;
  }
  return keep({ accessToken, expiresIn: 3600 });
}

/** Go to a provider; the browser comes back to this page with a code. */
export async function goToProvider(name) {
  const verifier = base64url(crypto.getRandomValues(new Uint8Array(48)));
  sessionStorage.setItem(ATTEMPT, JSON.stringify({ verifier, place: location.hash }));
  const query = new URLSearchParams({ returnUrl: `${location.origin}/` });
  // Without TLS there is no digest in browsers, nor is there anything to protect on the way.
  if (crypto.subtle) query.set("codeChallenge", base64url(new Uint8Array(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(verifier)))));
  const { authorizationUrl } = await ask("GET", `/auth/login/${encodeURIComponent(name)}?${query}`);
  location.assign(authorizationUrl);
}

// Only these: what an address says is not shown, as it may be made by others.
const NOT_SIGNED_IN = new Map([
  ["sign_in_failed", "You were not signed in: it was declined, or it took too long. Try again."],
  ["banned", "You were not signed in: this account is banned."],
  ["registration_closed", "You were not signed in: no one new can join here at the moment."],
  ["unavailable", "You were not signed in: the provider does not answer. Try again in a minute."],
]);

/** What the address of this page says when the browser comes back from a provider. Returns a session, or null. */
export async function comeBack() {
  const query = new URLSearchParams(location.search);
  const fragment = new URLSearchParams(location.hash.slice(1));
  const code = query.get("code");
  const failure = query.get("error");
  if (!code && !failure && !fragment.has("accessToken")) return null;
  const { verifier: codeVerifier, place } = JSON.parse(sessionStorage.getItem(ATTEMPT) ?? "{}");
  sessionStorage.removeItem(ATTEMPT);
  history.replaceState(null, "", `/${place ?? ""}`); // neither stays in the address, nor in the history
  if (failure) throw new ParleyError(failure, NOT_SIGNED_IN.get(failure) ?? "You were not signed in. Try again.");
  if (!codeVerifier) throw new ParleyError("sign_in_failed", "This sign-in was not begun in this tab. Sign in again.");
  if (!code) return keep({ accessToken: fragment.get("accessToken"), refreshToken: fragment.get("refreshToken"), expiresIn: Number(fragment.get("expiresIn")) });
  return keep(await post("/auth/exchange", crypto.subtle ? { code, codeVerifier } : { code }));
}

function base64url(bytes) {
  return btoa(String.fromCharCode(...bytes)).replace(/\+/g, "-").replace(/\//g, "_").replace(/=/g, "");
}

// -- staying in -----------------------------------------------------------------------------------------------------

/**
 * For the client library, which asks for a token at the beginning, when the last one is about to end, and when it was
 * refused: so the one that it has is not given to it again.
 */
export async function token() {
  lastGiven = await tokenOtherThan(lastGiven);
  return lastGiven;
}

let lastGiven = "";

/**
 * An access token that is good now: that of the store, or a new one. Raises `unauthenticated` when the session is over,
 * and what passes by itself when the server cannot be reached.
 */
export async function tokenOtherThan(refused) {
  const session = require();
  if (isGood(session, refused)) return session.accessToken;
  return navigator.locks ? navigator.locks.request("parley.refresh", () => renewed(refused)) : renewed(refused);
}

function require() {
  const session = stored();
  if (!session) throw new ParleyError("unauthenticated", "You have signed out.");
  return session;
}

function isGood({ accessToken, expiresAt, refreshToken }, refused) {
  return !refreshToken || (accessToken !== refused && Date.now() < expiresAt - MARGIN);
}

async function renewed(refused) {
  const session = require();
  if (isGood(session, refused)) return session.accessToken; // another tab was faster
  const tokens = await post("/auth/refresh", { refreshToken: session.refreshToken });
  if (stored()?.refreshToken === session.refreshToken) return keep(tokens).accessToken;
  return require().accessToken; // somebody has signed out meanwhile, or another tab was faster
}

/** End the session here, at once, and on the server. Returns whether it is known to be over there, too. */
export async function signOut() {
  const session = stored();
  forget();
  if (!session) return true;
  try {
    const { accessToken } = isGood(session, "") ? session : await post("/auth/refresh", { refreshToken: session.refreshToken });
    await ask("POST", "/auth/logout", undefined, { Authorization: `Bearer ${accessToken}` });
    return true;
  } catch (error) {
    return error.status === 401;
  }
}
