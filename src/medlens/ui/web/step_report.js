// Step 5: the numbers that matter most, with their intervals, and the way to the report.

import { element } from "./serve/dom.js";
import { count } from "./serve/words.js";
import { fileAddress } from "./client.js";
import { fileLink, link, withFlags } from "./parts.js";
import { notYet } from "./step_try.js";
import { capital, inThree } from "./words.js";

/** What stands in the step. */
export function drawReport({ run, path, go }) {
  if (!run.report) return [notYet(go)];
  const { evaluation } = run;
  return [
    element("p", { class: "lead-text" }, introduction(evaluation)),
    evaluation && notices(evaluation.notices),
    evaluation && element("div", { class: "two" },
      measures("What it reaches", evaluation.numbers.map((one) => ({ ...one, name: capital(one.title) }))),
      measures("How many of each class it finds (recall)", evaluation.recall.map((one) => ({
        ...one, name: one.class, more: count(one.n, "image"),
      })))),
    evaluation && element("p", { class: "hint", text: "A bar is the 95 % interval: how "
      + "far a number may be off because only so many were tested. A long bar means few images." }),
    element("div", { class: "buttons" },
      fileLink("Open the whole report", fileAddress("report", path), { kind: "button main" }),
      fileLink("Open the model card", fileAddress("model-card", path), { kind: "button" }),
      link("Next: try it on images", go("try"), { class: "button", id: "next" })),
  ];
}

/** What medlens itself warns of. */
function notices(all) {
  if (all.length === 0) return "";
  return element("div", { class: "alert care" },
    element("ul", { class: "lines" }, ...all.map((text) => element("li", {}, ...withFlags(text)))));
}

function introduction(evaluation) {
  if (!evaluation) return "The report holds every number with its interval, and says what they mean.";
  const { tested, n, groups, majority } = evaluation;
  const what = tested === "test"
    ? "that it had never seen"
    : "in cross-validation, each by a classifier that had not seen it";
  const apart = groups === n ? "" : ` (${count(groups, "group")}: a patient's images, or all copies of one)`;
  return `It was tested on ${count(n, "image")} ${what}${apart}. Always answering `
    + `“${majority.class}” would be right in ${inThree(majority.value)} of them: where classes are of `
    + "different sizes, read the balanced accuracy and the recall beside the accuracy.";
}

/** Numbers with their intervals, as text and as a bar from 0 to 1. */
function measures(title, all) {
  return element("section", { class: "card measures" },
    element("h4", { text: title }),
    element("ul", {}, ...all.map((one) => element("li", {},
      element("span", { class: "measure", text: one.name }),
      element("b", { class: "number", text: inThree(one.value) }),
      one.ci95 ? barOf(one) : "",
      element("span", { class: "interval", text: allOf(intervalOf(one), one.more) })))));
}

const allOf = (...texts) => texts.filter(Boolean).join(" · ");

function intervalOf({ value, ci95, reason }) {
  if (!Number.isFinite(value)) return reason ?? "cannot be computed";
  return ci95 ? `95 % interval ${inThree(ci95[0])} to ${inThree(ci95[1])}` : "";
}

function barOf({ value, ci95: [low, high] }) {
  const range = element("span", { class: "range" });
  range.style.left = `${100 * low}%`;
  range.style.width = `${100 * (high - low)}%`;
  const dot = element("span", { class: "dot" });
  dot.style.left = `${100 * value}%`;
  return element("span", { class: "track", "aria-hidden": "true" }, range, dot);
}
