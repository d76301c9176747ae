/** Light or dark: as the system says, until a person says otherwise. */

import { signal } from "@preact/signals";

export type Theme = "light" | "dark";

const KEY = "headwater.theme";
const system = matchMedia("(prefers-color-scheme: light)");

function wanted(): Theme {
  const chosen = localStorage.getItem(KEY);
  if (chosen === "light" || chosen === "dark") return chosen;
  return system.matches ? "light" : "dark";
}

export const theme = signal<Theme>(wanted());

function show(): void {
  theme.value = wanted();
  document.documentElement.dataset.theme = theme.value;
}

export function toggleTheme(): void {
  localStorage.setItem(KEY, theme.value === "dark" ? "light" : "dark");
  show();
}

system.addEventListener("change", show);
show();
