// Two runs beside one another, on the same test images.

import { element } from "./serve/dom.js";
import { commandLine, link } from "./parts.js";
import { intervalOf, lastPart } from "./words.js";

const MEASURES = {
  accuracy: "Accuracy", balanced_accuracy: "Balanced accuracy", roc_auc_macro: "ROC AUC",
  log_loss: "Log loss (lower is better)",
};

/** Opens the page. */
export async function openCompare({ client, parameters, view, signal }) {
  const paths = [parameters.get("first") ?? "", parameters.get("second") ?? ""];
  const names = paths.map(lastPart);
  view.replaceChildren(element("p", { class: "hint", text: "Comparing …" }));
  const head = [
    element("h2", { text: "Which is better?" }),
    element("p", { class: "lead-text" }, ...paths.flatMap((path, place) => [
      place === 0 ? "The first run is " : ", the second ",
      link(names[place], `#/run?${new URLSearchParams({ path, step: "report" })}`),
    ]), ". Both are judged on the same images, image by image."),
  ];
  let compared;
  try {
    compared = await client.compare(...paths, signal);
  } catch (error) {
    if (signal.aborted) throw error;
    view.replaceChildren(...head, element("p", { class: "alert", text: error.message }));
    return;
  }
  view.replaceChildren(element("div", { class: "compare" },
    ...head,
    tableOf(compared.compared, names),
    element("section", { class: "card", "aria-labelledby": "lines-title" },
      element("h3", { id: "lines-title", text: "In words" }),
      element("ul", { class: "lines" }, ...compared.lines.map((text) => element("li", { text })))),
    compared.command && commandLine(compared.command)));
}

/** The numbers of both, and their difference with its interval. */
function tableOf({ first, second, difference }, names) {
  const known = Object.keys(MEASURES).filter((key) => difference?.[key]);
  if (known.length === 0) return "";
  const heads = ["", ...names, "Difference", "95 % interval"];
  const rows = known.map((key) => {
    const { value, ci95 } = difference[key];
    const cells = [intervalOf(first[key]), intervalOf(second[key]), signed(value),
      ci95 ? `${signed(ci95[0])} to ${signed(ci95[1])}` : "–"];
    return element("tr", {}, element("th", { scope: "row", text: MEASURES[key] }),
      ...cells.map((text, place) => (
        element("td", { class: "number", "data-title": heads[place + 1], text })
      )));
  });
  return element("table", { class: "compared" },
    element("thead", {}, element("tr", {}, ...heads.map((text) => (text
      ? element("th", { scope: "col", class: "number", text })
      : element("td", {}, element("span", { class: "unseen", text: "Measure" })))))),
    element("tbody", {}, ...rows));
}

function signed(value) {
  if (!Number.isFinite(value)) return "–";
  return `${value > 0 ? "+" : ""}${value.toFixed(3)}`.replace("-", "−");
}
