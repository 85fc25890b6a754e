// The first page: begin with a folder or with phantoms; all runs.

import { announce, element } from "./serve/dom.js";
import { count } from "./serve/words.js";
import { askForName, askToDelete } from "./dialogs.js";
import { keepAsking } from "./polling.js";
import { button, doing, focusOn, link } from "./parts.js";
import { isWorking, moment, STATES, withInterval } from "./words.js";

const HEADS = ["Run", "State", "Images", "Accuracy", "ROC AUC", "Backbone", "Changed", ""];
const TITLE = "runs-title";

/** Opens the page. */
export async function openStart({ client, view, signal }) {
  const chosen = new Set(); // paths of the runs to compare
  const table = element("div", { id: "runs" });
  const cut = element("p", { class: "hint", hidden: true, text: "There are too many folders here to "
    + "look into all of them: there may be more runs." });
  let seen = "";
  let askNow = () => {};

  function take({ runs, search_cut_short: isCut }) {
    const now = JSON.stringify([runs, isCut]);
    if (now !== seen) {
      seen = now;
      cut.hidden = !isCut;
      for (const path of chosen) if (!runs.some((run) => run.path === path)) chosen.delete(path);
      draw(runs);
    }
    return runs.some(isWorking);
  }

  function draw(runs) {
    const focused = table.contains(document.activeElement) ? document.activeElement : null;
    table.replaceChildren(runs.length > 0 ? tableOf(runs) : element("p", {
      class: "empty", text: "No run yet. The first one will stand here.",
    }));
    if (focused) focusOn(focused.id, TITLE);
  }

  function tableOf(runs) {
    const compare = link("Compare the two", "", { class: "button", id: "compare" });
    const hint = element("p", { class: "hint", text: "Tick two finished runs to compare them." });
    const choice = element("div", { class: "row after-title" }, hint, compare);
    choice.hidden = runs.filter((run) => run.state === "done").length < 2;
    const showChosen = () => {
      const [first, second] = chosen;
      compare.hidden = chosen.size !== 2;
      compare.href = `#/compare?${new URLSearchParams({ first, second })}`;
      hint.hidden = chosen.size === 2;
      for (const box of table.querySelectorAll("input")) {
        box.disabled = !box.checked && chosen.size === 2;
      }
    };
    const rows = runs.map((run) => rowOf(run, showChosen));
    const heads = HEADS.map((text) => (text
      ? element("th", { scope: "col", text })
      : element("td", {}, element("span", { class: "unseen", text: "What to do" }))));
    const made = element(
      "div", {},
      choice,
      element("table", { class: "runs" },
        element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...rows)),
    );
    queueMicrotask(showChosen); // once it is in the page
    return made;
  }

  function rowOf(run, showChosen) {
    const name = link(run.name, `#/run?${new URLSearchParams({ path: run.path })}`, {
      id: `open-${run.path}`,
    });
    const head = element("th", { scope: "row" });
    if (run.state === "done") {
      const box = element("input", {
        type: "checkbox", id: `compare-${run.path}`, "aria-label": `Compare ${run.name}`,
      });
      box.checked = chosen.has(run.path);
      box.addEventListener("change", () => {
        chosen[box.checked ? "add" : "delete"](run.path);
        showChosen();
      });
      head.append(box);
    }
    head.append(name);
    const images = Number.isFinite(run.images) ? count(run.images, "image") : "–";
    const cells = [
      stateOf(run),
      run.classes.length ? `${images}, ${count(run.classes.length, "class", "classes")}` : images,
      withInterval(run.accuracy),
      withInterval(run.roc_auc),
      run.backbone ?? "–",
      moment(run.changed),
    ].map((content, column) => element("td", { "data-title": HEADS[column + 1] }, content));
    return element("tr", {}, head, ...cells, element("td", { class: "acts" },
      button("Rename", doing(() => rename(run)), {
        id: `rename-${run.path}`, kind: "quiet", label: `Rename ${run.name}`, disabled: isWorking(run),
      }),
      button("Delete", doing(() => remove(run)), {
        id: `delete-${run.path}`, kind: "quiet", label: `Delete ${run.name}`, disabled: isWorking(run),
      })));
  }

  async function rename(run) {
    const name = await askForName(run);
    focusOn(`rename-${run.path}`, TITLE);
    if (name === null) return;
    const { path } = await client.rename(run.path, name);
    announce(`${run.name} is called ${name} now.`);
    await askNow();
    focusOn(`rename-${path}`, TITLE);
  }

  async function remove(run) {
    const name = await askToDelete(run);
    focusOn(`delete-${run.path}`, TITLE);
    if (name === null) return;
    await client.remove(run.path, name);
    announce(`${run.name} is deleted.`);
    await askNow();
  }

  view.replaceChildren(
    beginning(),
    element("section", { "aria-labelledby": TITLE },
      element("h2", { id: TITLE, tabindex: "-1", text: "Your runs" }), table, cut),
  );
  askNow = await keepAsking(client.runs, take, signal);
}

/** How far a run is, and why one cannot be read. */
function stateOf(run) {
  const state = element("span", {
    class: `state ${run.state}`, text: STATES[run.state] ?? run.state,
  });
  return run.reason ? element("div", {}, state, element("p", { class: "hint", text: run.reason })) : state;
}

function beginning() {
  return element("section", { class: "beginning", "aria-labelledby": "beginning-title" },
    element("div", { class: "lead" },
      element("h2", { id: "beginning-title", text: "Train a classifier on your images" }),
      element("p", { text: "Choose a folder with one sub-folder for each class, for example "
        + "“healthy” and “tumour”. medlens looks for what is wrong with the images, trains, tests "
        + "what it has trained, and writes a report with an interval on every number." }),
      element("p", { class: "hint", text: "The images stay where they are, on this computer. "
        + "Nothing is sent anywhere." }),
      element("div", { class: "buttons" },
        link("Choose a folder of images", "#/data?path=", { class: "button main", id: "choose" }),
        link("Try it with phantoms", "#/phantoms", { class: "button", id: "phantoms" })),
      element("p", { class: "hint", text: "Phantoms are small pictures drawn by medlens, of no "
        + "patient. They show the whole road in a few minutes." })),
    element("ol", { class: "road", "aria-label": "The steps" },
      ...[["Audit", "What is wrong with the images"], ["Plan", "What will be done, and why"],
        ["Train", "With progress; stop and go on"], ["Report", "Every number with its interval"],
        ["Try", "Your own images, answered"], ["Hand over", "One file for someone else"],
      ].map(([name, text]) => element("li", {}, element("b", { text: name }), element("span", { text })))));
}
