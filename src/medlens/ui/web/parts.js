// Small parts that every page is made of.

import { announce, byId, complain, element } from "./serve/dom.js";

/** A button. `kind` is a class of the style sheet, "main" for what the page wants done. */
export function button(text, onClick, { id, kind, label, pressed, disabled } = {}) {
  const made = element("button", { type: "button", text });
  if (id) made.id = id;
  if (kind) made.className = kind;
  if (label) made.setAttribute("aria-label", label);
  if (pressed !== undefined) made.setAttribute("aria-pressed", String(pressed));
  made.disabled = Boolean(disabled);
  made.addEventListener("click", onClick);
  return made;
}

/** Does what a button asks for, once at a time, and says what went wrong. */
export function doing(work) {
  return async (event) => {
    const pressed = event.currentTarget;
    if (pressed.hasAttribute("aria-disabled")) return;
    complain("");
    pressed.setAttribute("aria-disabled", "true"); // and not disabled, so that it keeps the focus
    try {
      await work();
    } catch (error) {
      complain(error.message);
      byId("problem").scrollIntoView({ block: "nearest" });
    } finally {
      pressed.removeAttribute("aria-disabled");
    }
  };
}

/** Gives the focus to what was drawn anew; to a heading where that is gone or cannot have it. */
export function focusOn(id, heading) {
  const again = byId(id);
  (again && !again.disabled ? again : byId(heading))?.focus({ preventScroll: true });
}

/** A link within the page, by its route. */
export function link(text, route, properties = {}) {
  return element("a", { href: route, text, ...properties });
}

/** A link to a document of a run, which opens in a new tab. */
export function fileLink(text, address, { kind = "" } = {}) {
  const hidden = element("span", { class: "unseen", text: " (opens in a new tab)" });
  return element("a", { href: address, class: kind, target: "_blank", rel: "noopener" }, text, hidden);
}

/** The command line that does the same, ready to copy. */
export function commandLine(command, title = "The same on the command line") {
  const code = element("code", { text: command });
  const copy = button("Copy", async () => {
    try {
      await navigator.clipboard.writeText(command);
      copy.textContent = "Copied";
      announce("The command line is copied.");
    } catch {
      getSelection().selectAllChildren(code);
      announce("It is marked; copy it with Ctrl+C.");
    }
  }, { kind: "copy", label: `Copy: ${command}` });
  return element(
    "figure", { class: "command" },
    element("figcaption", { text: title }),
    element("div", {}, element("pre", { tabindex: "0", "aria-label": title }, code), copy),
  );
}

/** A sentence in which options and `commands` stand out; options are not broken at their dashes. */
export function withFlags(text) {
  return text.split(/(--[a-z][a-z-]*|`[^`]+`)/).map((part) => {
    if (part.startsWith("--")) return element("code", { class: "flag", text: part });
    return part.startsWith("`") ? element("code", { text: part.slice(1, -1) }) : part;
  });
}

/** How many images each class has, as bars. `extra` gives something more for a class. */
export function classBars(classes, extra = () => []) {
  const most = Math.max(1, ...classes.map((one) => one.images ?? 0));
  return element("ul", { class: "class-bars" }, ...classes.map((one) => {
    const name = element("span", { class: "class", text: one.name });
    if (!Number.isFinite(one.images)) return element("li", {}, name, ...extra(one));
    const fill = element("span", { class: "fill" });
    fill.style.width = `${(100 * one.images) / most}%`;
    return element(
      "li", {},
      name,
      element("span", { class: "number", text: one.images.toLocaleString("en") }),
      element("span", { class: "track", "aria-hidden": "true" }, fill),
      ...extra(one),
    );
  }));
}
