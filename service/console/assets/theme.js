// Light or dark, as last chosen in this browser.

import { $ } from "/console/dom.js";

export function theme(changed) {
  const root = document.documentElement;
  const use = (name) => {
    root.dataset.theme = name;
    document.querySelector('meta[name="theme-color"]').content = name === "dark" ? "#0b1013" : "#eef1f0";
    changed();
  };
  try {
    if (localStorage.getItem("theme") === "light") use("light");
  } catch {
    // without local storage it starts dark
  }
  $("theme").addEventListener("click", () => {
    const name = root.dataset.theme === "dark" ? "light" : "dark";
    use(name);
    try {
      localStorage.setItem("theme", name);
    } catch {
      // as above
    }
  });
}
