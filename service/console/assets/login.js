// Login, where the service needs a token. The browser keeps it in a cookie no script can read.

import { $ } from "/console/dom.js";
import { ask } from "/console/feed.js";

export const login = { show, done: () => {} };

function show() {
  $("logout").hidden = false;
  if (!$("login").open) $("login").showModal();
}

$("login-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const token = $("token").value.trim();
  try {
    await ask("/session", { method: "POST", body: JSON.stringify({ token }), headers: { "Content-Type": "application/json" } });
  } catch (error) {
    $("login-note").dataset.kind = "error";
    $("login-note").textContent = `Not signed in: ${error.message}`;
    return $("token").select();
  }
  $("login-note").textContent = "";
  $("token").value = "";
  $("login").close();
  return login.done();
});
$("login").addEventListener("cancel", (event) => event.preventDefault()); // the page is empty without login

$("logout").addEventListener("click", async () => {
  await ask("/session", { method: "DELETE" }).catch(() => {}); // then the page is still signed in, and shows it
  location.reload();
});

ask("/session").then(
  async (answer) => ($("logout").hidden = !(await answer.json()).needed),
  () => {}, // the feed says why
);
