/**
 * Before the modules of the page: says that a part of it did not come, and loads it again, a few times by itself. It is no
 * module, because of these a single one that is missing ends all, without a word.
 */
(() => {
  const KEY = "parley.loads"; // of sessionStorage: how often this tab has loaded it again
  const PAUSES = [2000, 4000, 8000]; // milliseconds

  function onFailure() {
    const app = document.querySelector("#app");
    const done = Number(sessionStorage.getItem(KEY));
    const isLast = !(done < PAUSES.length);
    const again = document.createElement("button");
    again.className = "link";
    again.textContent = "Try again";
    again.addEventListener("click", () => (sessionStorage.removeItem(KEY), location.reload()));
    const text = document.createElement("p");
    text.className = "splash";
    text.setAttribute("role", "alert");
    text.append(isLast ? "Parley could not be loaded. " : "Parley could not be loaded. Trying again … ", again);
    app.replaceChildren(text);
    if (isLast) return;
    sessionStorage.setItem(KEY, String(done + 1));
    setTimeout(() => location.reload(), PAUSES[done]);
  }

  addEventListener("error", ({ target }) => {
    if (target?.type !== "module") return;
    if (document.querySelector("#app")) onFailure();
    else addEventListener("DOMContentLoaded", onFailure, { once: true });
  }, true);
})();
