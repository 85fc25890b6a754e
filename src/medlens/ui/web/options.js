// A field for an option of medlens; what is set is kept by the server at once.

import { announce, complain, element } from "./serve/dom.js";
import { valueInWords } from "./words.js";

const STANDARD = ""; // the value of the choice that leaves it to medlens

/**
 * Makes the field of an option.
 *
 * @param {object} option From the server's list of options.
 * @param {object} context Of the step.
 * @param {string} place Where it stands, if it has no label of its own there.
 */
export function optionField(option, { client, run, path, again }, place = "") {
  const own = run.options?.[option.name];
  const isClosed = option.kind === "switch" || (option.choices && !option.open);
  const field = isClosed ? choiceOf(option, own) : inputOf(option, own);
  field.id = `option-${option.name}`;
  if (place) field.setAttribute("aria-label", `Change ${option.name.replaceAll("_", " ")}`);
  else field.setAttribute("aria-describedby", `about-${option.name}`);
  field.dataset.kept = field.value; // what differs is put back when the step is drawn anew
  let sent = field.value;
  const send = async () => {
    if (field.value === sent) return;
    sent = field.value;
    complain("");
    field.removeAttribute("aria-invalid");
    try {
      await client.setOptions(path, { [option.name]: valueOf(option, sent.trim()) });
      field.dataset.kept = sent;
      announce(`${option.name.replaceAll("_", " ")} is changed.`);
      await again();
    } catch (error) {
      field.setAttribute("aria-invalid", "true");
      complain(error.message);
    }
  };
  field.addEventListener("change", send);
  field.addEventListener("blur", send); // no change, for the browser, of what was put back
  if (isClosed || !option.choices) return field;
  const list = element("datalist", { id: `choices-${option.name}` },
    ...option.choices.map((name) => element("option", { value: name })));
  field.setAttribute("list", list.id);
  return element("span", {}, field, list);
}

/** What the server is told; null for the standard. */
function valueOf({ kind }, text) {
  if (text === STANDARD) return null;
  if (kind === "switch") return text === "yes";
  return text;
}

function choiceOf(option, own) {
  const choices = option.kind === "switch" ? ["yes", "no"] : option.choices;
  const chosen = own === undefined || own === null ? STANDARD : valueInWords(own);
  const standard = `as usual (${valueInWords(option.default)})`;
  const names = choices.includes(chosen) || chosen === STANDARD ? choices : [...choices, chosen];
  const field = element("select", {},
    element("option", { value: STANDARD, text: standard }),
    ...names.map((name) => element("option", { value: name, text: String(name) })));
  field.value = chosen;
  return field;
}

function inputOf(option, own) {
  const field = element("input", {
    type: "text", inputmode: option.kind === "number" ? "decimal" : "text", spellcheck: "false",
    autocomplete: "off", placeholder: `as usual (${valueInWords(option.default)})`,
  });
  field.value = own === undefined || own === null ? "" : valueInWords(own);
  return field;
}
