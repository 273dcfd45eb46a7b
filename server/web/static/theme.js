/**
 * Light or dark: as the system says, or as it was chosen in this browser.
 * @module
 */
import { h } from "./dom.js";

const KEY = "parley.theme";
const CHOICES = [["", "As the system"], ["light", "Light"], ["dark", "Dark"]];

export function applyTheme() {
  const chosen = localStorage.getItem(KEY);
  if (chosen) document.documentElement.dataset.theme = chosen;
  else delete document.documentElement.dataset.theme;
}

function choose(theme) {
  if (theme) localStorage.setItem(KEY, theme);
  else localStorage.removeItem(KEY);
  applyTheme();
}

export function themeSwitch() {
  const chosen = localStorage.getItem(KEY) ?? "";
  const select = h("select", { "aria-label": "Colours", on: { change: () => choose(select.value) } },
    CHOICES.map(([value, text]) => h("option", { value, text, selected: value === chosen })));
  return select;
}

export function toggleTheme() {
  const isDark = document.documentElement.dataset.theme
    ? document.documentElement.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  choose(isDark ? "light" : "dark");
}
