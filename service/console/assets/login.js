// Login, where the service needs a token. The browser keeps it in a cookie no script can read.

import { $ } from "/console/dom.js";

export const login = { show, done: () => {} };

function show() {
  $("logout").hidden = false;
  if (!$("login").open) $("login").showModal();
}

async function session(method, body) {
  try {
    return await fetch("/session", { method, body, credentials: "same-origin", headers: body ? { "Content-Type": "application/json" } : {} });
  } catch {
    return null;
  }
}

$("login-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const answer = await session("POST", JSON.stringify({ token: $("token").value.trim() }));
  $("login-note").dataset.kind = "error";
  $("login-note").textContent = answer?.ok ? "" : answer ? "This token is not valid." : "The service does not answer.";
  if (!answer?.ok) return $("token").select();
  $("token").value = "";
  $("login").close();
  return login.done();
});
$("login").addEventListener("cancel", (event) => event.preventDefault()); // the page is empty without login

$("logout").addEventListener("click", async () => {
  await session("DELETE");
  location.reload();
});

session("GET").then(async (answer) => {
  if (answer?.ok) $("logout").hidden = !(await answer.json()).needed;
});
