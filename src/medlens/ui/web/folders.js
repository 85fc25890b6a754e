// Choosing a folder: what lies below the root, as the server lists it.

import { element } from "./serve/dom.js";
import { count } from "./serve/words.js";
import { button, classBars, commandLine, doing, link, withFlags } from "./parts.js";
import { imagesInWords, lastPart, sumOf } from "./words.js";

const KINDS = {
  folder: "Folder", csv: "Table of images (CSV)", npz: "MedMNIST file", run: "Run", zip: "Zip file",
};
const RUNS = "medlens-runs"; // where the page puts its runs; nothing in it is counted

const route = (path) => `#/data?${new URLSearchParams({ path })}`;

/** Opens the page. */
export async function openFolders({ client, parameters, view, signal }) {
  const path = parameters.get("path") ?? "";
  const [folder, about] = await Promise.all([client.folders(path, signal), client.about()]);
  view.replaceChildren(
    element("div", { class: "folders" },
      element("section", { "aria-labelledby": "folders-title" },
        element("h2", { id: "folders-title", text: "Choose a folder of images" }),
        trail(path, about.root),
        listOf(folder)),
      chosenFolder(client, folder, { name: path === "" ? about.root : lastPart(path) })),
  );
}

/** Opens the page of the phantoms, which the server draws where they are not there. */
export async function openPhantoms({ client, view, signal }) {
  const { path, options, note, command } = await client.writePhantoms();
  const folder = await client.folders(path, signal);
  view.replaceChildren(
    element("div", { class: "folders" },
      element("section", { class: "lead", "aria-labelledby": "phantoms-title" },
        element("h2", { id: "phantoms-title", text: "Phantoms" }),
        element("p", { text: "These pictures look a little like mammograms and are drawn by medlens: "
          + "healthy tissue, a mass, or fine grains of calcium. They are of no patient, so anything "
          + "may be tried with them." }),
        note ? element("p", { class: "alert care", text: note }) : "",
        commandLine(command)),
      chosenFolder(client, folder, { name: "Phantoms", options })),
  );
}

/** The folders above this one. */
function trail(path, root) {
  const parts = path === "" ? [] : path.split("/");
  const links = parts.map((name, place) => [name, parts.slice(0, place + 1).join("/")]);
  return element("nav", { class: "trail", "aria-label": "Where this folder lies" },
    element("ol", {}, ...[[root, ""], ...links].map(([name, above]) => {
      const isHere = above === path;
      return element("li", {}, isHere
        ? element("b", { "aria-current": "page", text: name })
        : link(name, route(above)));
    })));
}

function listOf(folder) {
  const usable = folder.entries.filter((entry) => KINDS[entry.kind]);
  if (usable.length === 0) {
    return element("p", { class: "empty", text: "There is no folder and no table in this folder." });
  }
  return element("ul", { class: "entries" }, ...usable.map((entry) => {
    const target = entry.kind === "run"
      ? `#/run?${new URLSearchParams({ path: entry.path })}` : route(entry.path);
    const name = entry.kind === "zip" ? element("b", { text: entry.name }) : link(entry.name, target);
    return element("li", { class: entry.kind },
      element("span", { class: "sign", "aria-hidden": "true" }),
      name,
      element("span", { class: "what", text: inWords(entry) }));
  }));
}

function inWords(entry) {
  if (entry.name === RUNS) return "Folder of runs";
  const parts = [];
  if (entry.kind !== "folder") parts.push(KINDS[entry.kind]);
  if (entry.kind === "folder" && entry.images !== undefined) parts.push(imagesInWords(entry.images));
  if (entry.classes?.length) parts.push(`${count(entry.classes.length, "class", "classes")}`);
  return parts.join(" · ");
}

/** Whether what is open can be trained on, and how to begin. */
function chosenFolder(client, folder, { name, options = {} }) {
  if (!folder.can_be_data) {
    return element("aside", { class: "card choice", "aria-labelledby": "choice-title" },
      element("h3", { id: "choice-title", text: "Not yet a folder of images to train on" }),
      element("p", {}, ...withFlags(folder.why_not
        ?? "Open a folder that has one sub-folder for each class.")),
      element("p", { class: "hint", text: "A table (CSV) with the columns path and label can be "
        + "chosen as well; a column patient keeps the images of a patient together." }));
  }
  const input = element("input", {
    id: "run-name", type: "text", spellcheck: "false", autocomplete: "off",
    placeholder: "named after the images", "aria-describedby": "run-name-hint",
  });
  const begin = async () => {
    const content = { data: folder.path, options };
    if (input.value.trim()) content.name = input.value.trim();
    const run = await client.createRun(content);
    location.hash = `#/run?${new URLSearchParams({ path: run.path, step: "audit" })}`;
  };
  const classes = count(folder.classes.length, "class", "classes");
  return element("aside", { class: "card choice", "aria-labelledby": "choice-title" },
    element("h3", { id: "choice-title", text: "This can be trained on" }),
    element("p", {}, element("b", { text: name }),
      `: ${imagesInWords(sumOf(folder.classes))}, in ${classes}.`),
    classBars(folder.classes),
    element("label", { for: "run-name", text: "Name of the run" }),
    input,
    element("p", { class: "hint", id: "run-name-hint", text: "Its results go into a folder of this "
      + "name below medlens-runs. Nothing is written to the folder of images." }),
    element("div", { class: "buttons" },
      button("Use these images", doing(begin), { id: "use", kind: "main" })),
    element("p", { class: "hint", text: "Next: the audit. Nothing is trained before you say so." }));
}
