// Step 3: what training would do, why, and how to have it otherwise.

import { element } from "./serve/dom.js";
import { button, commandLine, doing, link, withFlags } from "./parts.js";
import { failure, fixedNote } from "./step_audit.js";
import { optionField } from "./options.js";
import { capital, failedStep, headInWords, isWorking, valueInWords } from "./words.js";

/** What stands in the step. */
export async function drawPlan(context) {
  const { client, run, path, progress, again, signal } = context;
  const start = doing(async () => {
    await client.startPlan(path);
    await again();
  });
  const intro = element("p", { class: "lead-text", text: "medlens decides from the images how large "
    + "the network sees them, and what it will compare by cross-validation inside the training "
    + "images. Each line says why. You may leave everything as it is." });
  const options = await client.options(signal);
  const plan = isWorking(run) ? null : await planOf(client, path, signal);
  const line = run.commands?.plan && commandLine(run.commands.plan);
  const failed = failedStep(run) === "plan" && run.error && failure(run.error);
  if (plan === null) {
    return [
      intro,
      failed,
      !isWorking(run) && element("div", { class: "buttons" },
        button("Make the plan", start, { id: "start-plan", kind: "main" })),
      progress.part,
      !isWorking(run) && otherOptions(options, [], context),
      line,
    ];
  }
  return [
    intro,
    failed,
    run.is_fixed ? fixedNote(run) : verdict(run, start, context),
    fingerprint(plan.fingerprint),
    decisions(plan, options, context),
    run.is_fixed ? "" : otherOptions(options, plan.decisions, context),
    line,
  ];
}

async function planOf(client, path, signal) {
  try {
    return await client.plan(path, signal);
  } catch (error) {
    if (error.status === 404 || error.status === 409) return null; // none was made yet
    throw error;
  }
}

function verdict(run, start, { go }) {
  const isOld = !run.current.plan; // an option was changed since
  if (isOld) {
    return element("div", { class: "verdict" },
      element("p", {}, element("strong", { text: "You changed something. " }),
        "What stands below is from before. Make the plan again."),
      element("div", { class: "buttons" },
        button("Make the plan again", start, { id: "start-plan", kind: "main" })));
  }
  return element("div", { class: "verdict good" },
    element("p", {}, element("strong", { text: "The plan is made. " }),
      "Change what you know better, or go on."),
    element("div", { class: "buttons" },
      link("Next: the training", go("train"), { class: "button main", id: "next" }),
      button("Make the plan again", start, { id: "start-plan" })));
}

/** The data set in a line of numbers. */
function fingerprint(print) {
  if (!print) return "";
  const [low, high] = print.sides ?? [];
  const parts = [
    Number.isFinite(print.images) && [`${print.images.toLocaleString("en")}`, "images"],
    print.classes && [`${Object.keys(print.classes).length}`, "classes"],
    Number.isFinite(print.patients_known)
      && [`${Math.round(100 * print.patients_known)} %`, "with a known patient"],
    Number.isFinite(low) && [low === high ? `${low}` : `${low} to ${high}`, "pixels at a side"],
    print.modality && [print.modality.replaceAll("_", " "), "kind of image, guessed"],
  ].filter(Boolean);
  return element("dl", { class: "numbers" }, ...parts.map(([value, name]) => (
    element("div", {}, element("dt", { text: name }), element("dd", { text: value }))
  )));
}

function decisions(plan, options, context) {
  const rows = plan.decisions.map((one) => {
    const option = !context.run.is_fixed && options.find((known) => known.name === one.option);
    return element("tr", { class: one.changed ? "changed" : "" },
      element("th", { scope: "row" }, one.name.replaceAll("_", " "),
        one.changed ? element("span", { class: "badge", text: "yours" }) : ""),
      element("td", { class: "value", "data-title": "Decided" }, ...decided(one)),
      element("td", { class: "reason", "data-title": "Why" },
        element("span", {}, ...withFlags(one.reason))),
      ...(context.run.is_fixed ? [] : [option
        ? element("td", { "data-title": "Change" }, optionField(option, context, "plan"))
        : element("td")]));
  });
  const heads = ["What", "Decided", "Why", ...(context.run.is_fixed ? [] : ["Change"])];
  return element("table", { class: "decisions" },
    element("thead", {}, element("tr", {},
      ...heads.map((text) => element("th", { scope: "col", text })))),
    element("tbody", {}, ...rows));
}

/** What was decided, or what will be compared. */
function decided({ name, value, kind }) {
  const isHead = name === "heads";
  if (!Array.isArray(value)) return [isHead ? headInWords(value) : valueInWords(value)];
  const words = value.map(isHead ? headInWords : valueInWords);
  if (words.length === 1) return words;
  return [element("span", {}, kind === "measured" ? "The best of:" : "",
    element("ul", { class: "compared-values" }, ...words.map((text) => element("li", { text }))))];
}

/** All options that the plan does not show, by their groups. */
function otherOptions(options, shown, context) {
  const names = new Set(shown.map((one) => one.option));
  const rest = options.filter((one) => !names.has(one.name));
  const groups = Map.groupBy(rest, (one) => one.group);
  return element("details", { id: "other-options", class: "card" },
    element("summary", { text: "Further options" }),
    ...[...groups].map(([group, members]) => element("fieldset", { class: "options" },
      element("legend", { text: capital(group) }),
      ...members.map((one) => element("div", { class: "option" },
        element("label", { for: `option-${one.name}`, text: one.name.replaceAll("_", " ") }),
        optionField(one, context),
        element("p", { class: "hint", id: `about-${one.name}` }, ...withFlags(one.help)))))));
}
