// Questions that want an answer before something is done.

import { byId } from "./serve/dom.js";
import { commandLine } from "./parts.js";

// As the server takes it for the name of a run.
const NAME = /^[\p{L}\p{N}][\p{L}\p{N}_ .-]{0,98}$/u;

/**
 * Asks for a line of text; null where it is left.
 *
 * @param {{title: string, text: string, label: string, go: string, value?: string,
 *   accepts: function(string): boolean, command: function(string): Element|string}} question
 */
function askForText({ title, text, label, go, value = "", accepts, command }) {
  const dialog = byId("question");
  const input = byId("question-answer");
  byId("question-title").textContent = title;
  byId("question-text").textContent = text;
  byId("question-label").textContent = label;
  byId("question-go").textContent = go;
  input.value = value;
  const check = () => {
    const typed = input.value.trim();
    byId("question-go").disabled = !accepts(typed);
    byId("question-command").replaceChildren(command(typed));
  };
  check();
  input.oninput = check;
  byId("question-stop").onclick = () => dialog.close();
  dialog.returnValue = ""; // Escape leaves it as it is
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      resolve(dialog.returnValue === "given" ? input.value.trim() : null);
    }, { once: true });
  });
}

/** Asks the second time whether a run shall be deleted: its name must be typed. */
export function askToDelete({ name, commands }) {
  return askForText({
    title: `Delete ${name}?`,
    text: "The run with its classifier and its report is gone then. Your images stay where they are.",
    label: `Type its name to delete it: ${name}`,
    go: "Delete it",
    accepts: (typed) => typed === name,
    command: () => commandLine(commands.delete, "In a terminal, without the checks of this page"),
  });
}

/** Asks for the new name of a run. */
export function askForName({ name, commands }) {
  const accepts = (typed) => NAME.test(typed) && !typed.endsWith(".") && typed !== name;
  return askForText({
    title: `Rename ${name}`,
    text: "The folder of the run gets this name: letters, digits, spaces, dots, dashes and "
      + "underscores, at most 99 of them.",
    label: "New name",
    go: "Rename it",
    value: name,
    accepts,
    command: (typed) => (accepts(typed)
      ? commandLine(commands.rename.map((part) => part + quoted(typed)).join("")) : ""),
  });
}

/** A name as a shell takes it for one word. */
const quoted = (name) => (/^[\w.-]+$/.test(name) ? name : `'${name}'`);
