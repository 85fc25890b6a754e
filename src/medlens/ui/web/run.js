// A run: its steps as a rail, and the step that the address names.

import { byId, element } from "./serve/dom.js";
import { focusOn } from "./parts.js";
import { createProgress } from "./progress.js";
import { keepAsking } from "./polling.js";
import { drawAudit } from "./step_audit.js";
import { drawData } from "./step_data.js";
import { drawHandOver } from "./step_hand_over.js";
import { drawPlan } from "./step_plan.js";
import { drawReport } from "./step_report.js";
import { drawTrain } from "./step_train.js";
import { drawTry } from "./step_try.js";
import { failedStep, isWorking, STATES } from "./words.js";

const STEPS = [
  { key: "data", name: "Data", title: "The images", draw: drawData },
  { key: "audit", name: "Audit", title: "What is wrong with the images?", draw: drawAudit },
  { key: "plan", name: "Plan", title: "What will be done, and why", draw: drawPlan },
  { key: "train", name: "Train", title: "Training", draw: drawTrain },
  { key: "report", name: "Report", title: "How good is it?", draw: drawReport },
  { key: "try", name: "Try", title: "Try it on images", draw: drawTry },
  { key: "hand-over", name: "Hand over", title: "Hand it over", draw: drawHandOver },
];
// What a run was last about; the page opens there.
const STEP_OF = {
  new: "audit", auditing: "audit", audited: "audit", planning: "plan", planned: "plan",
  training: "train", stopped: "train", done: "report",
};
const WORKS_IN = { auditing: "audit", planning: "plan", training: "train" };

/** Opens the page; gives what changes the step. */
export async function openRun({ client, parameters, view, signal }) {
  const path = parameters.get("path") ?? "";
  const title = element("h2", { id: "run-name", class: "run-title" });
  const state = element("span", { class: "state" });
  const rail = element("ol", { class: "rail" });
  const body = element("section", { class: "step", id: "step", "aria-labelledby": "step-title" });
  let asked = parameters.get("step");
  let run = null;
  let seen = "";
  let drawing = null;
  let progress = null;
  let askNow = () => {};

  const stepNow = () => {
    const key = asked ?? failedStep(run) ?? STEP_OF[run.state];
    return STEPS.find((one) => one.key === key) ?? STEPS[0];
  };

  /** Takes what the server says of the run; draws anew what changed, and nothing else. */
  function take(answer) {
    run = answer;
    const { progress: told, changed, ...rest } = answer; // these two change all the time
    const now = JSON.stringify(rest);
    if (now !== seen) {
      seen = now;
      draw();
    }
    progress?.update(answer);
    return isWorking(answer) || answer.exports.some((one) => one.state === "exporting");
  }

  function draw() {
    const step = stepNow();
    title.textContent = run.name;
    state.className = `state ${run.state}`;
    state.textContent = STATES[run.state] ?? run.state;
    document.title = `${step.name} · ${run.name} · medlens`;
    drawRail(step);
    drawBody(step);
  }

  function drawRail(step) {
    const done = doneSteps(run);
    rail.replaceChildren(...STEPS.map((one, place) => {
      const here = one === step;
      const address = `#/run?${new URLSearchParams({ path, step: one.key })}`;
      const works = WORKS_IN[run.state] === one.key;
      const said = works ? "under way" : done.has(one.key) ? "done" : "";
      const mark = element("span", { class: "mark", "aria-hidden": "true", text: String(place + 1) });
      const anchor = element("a", { href: address, id: `to-${one.key}` }, mark,
        element("span", { class: "step-name", text: one.name }));
      if (said) anchor.append(element("span", { class: "unseen", text: `, ${said}` }));
      if (here) anchor.setAttribute("aria-current", "step");
      return element("li", { class: works ? "works" : said }, anchor);
    }));
  }

  async function drawBody(step) {
    drawing?.abort();
    drawing = new AbortController();
    const own = AbortSignal.any([signal, drawing.signal]);
    progress = createProgress(run);
    const context = {
      client, run, path, progress, signal: own, again: () => askNow(),
      go: (key) => `#/run?${new URLSearchParams({ path, step: key })}`,
    };
    let content;
    try {
      content = await step.draw(context);
    } catch (error) {
      if (own.aborted) return;
      content = [element("p", { class: "alert", text: error.message })];
    }
    if (own.aborted) return;
    const focused = body.contains(document.activeElement) ? document.activeElement : null;
    const open = openDetails();
    const typed = typedFields();
    const number = STEPS.indexOf(step) + 1;
    body.replaceChildren(
      element("p", { class: "place", text: `Step ${number} of ${STEPS.length}` }),
      element("h3", { id: "step-title", class: "step-title", tabindex: "-1", text: step.title }),
      ...content.filter(Boolean),
    );
    for (const id of open) openAgain(byId(id));
    if (focused) focusOn(focused.id, "step-title");
    for (const field of typed) putBack(field);
    progress.update(run);
  }

  /** The parts that the reader has opened, so that they stay so. */
  const openDetails = () => [...body.querySelectorAll("details[open][id]")].map((one) => one.id);

  /** The fields with what the server does not know yet. */
  const typedFields = () => [...body.querySelectorAll("[data-kept]")]
    .filter((one) => one.value !== one.dataset.kept);

  view.replaceChildren(
    element("div", { class: "run" },
      element("header", { class: "run-head" }, title, state),
      element("nav", { class: "steps", "aria-label": "Steps of this run" }, rail),
      body),
  );
  askNow = await keepAsking((own) => client.run(path, own), take, signal);
  return (changed) => {
    asked = changed.get("step");
    draw();
  };
}

/** Opens a part that the reader had opened. */
function openAgain(details) {
  if (!details) return;
  details.open = true;
  details.dispatchEvent(new Event("toggle")); // filled at once: what has the focus may be in it
}

/** Puts what was typed into the field that stands in the place of the one before. */
function putBack(before) {
  const field = byId(before.id);
  if (!field) return;
  field.value = before.value;
  if (before.hasAttribute("aria-invalid")) field.setAttribute("aria-invalid", "true");
  if (field === document.activeElement && field.matches("input")) {
    field.setSelectionRange(before.selectionStart, before.selectionEnd);
  }
}

/** The steps that have a result. */
function doneSteps(run) {
  const done = new Set(["data"]);
  for (const key of ["audit", "plan"]) if (run.current[key]) done.add(key);
  if (run.state === "done") {
    for (const key of ["audit", "plan", "train", "report"]) done.add(key);
  }
  return done;
}
