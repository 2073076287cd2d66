// Single-key shortcuts, except in input fields.

export function keys(actions) {
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    const { target } = event;
    const typing = target.matches?.("input:not([type=checkbox], [type=range]), select, textarea");
    const sliding = target.matches?.("input[type=range]") && event.key.startsWith("Arrow");
    const action = actions[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!action || typing || sliding) return;
    event.preventDefault();
    action();
  });
}
