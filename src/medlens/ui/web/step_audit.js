// Step 2: the findings, with their images, and what is left out because of them.

import { announce, element } from "./serve/dom.js";
import { count } from "./serve/words.js";
import { thumbnail } from "./thumbnails.js";
import { button, classBars, commandLine, doing, link, withFlags } from "./parts.js";
import { capital, failedStep, isWorking } from "./words.js";

const SEVERITIES = { error: "Must be mended", warning: "Take care", note: "Good to know" };
const ORDER = Object.keys(SEVERITIES);
const FIRST_GROUPS = 8;
const FIRST_IMAGES = 16;
const MOST_IN_GROUP = 24;

/** What stands in the step. */
export async function drawAudit(context) {
  const { client, run, path, progress, again, signal } = context;
  const start = doing(async () => {
    await client.startAudit(path);
    await again();
  });
  const intro = element("p", { class: "lead-text", text: "medlens reads every image and looks for "
    + "what would spoil the result: damaged files, copies, one patient in two sets, wrong sizes, "
    + "classes that are too small. Nothing is trained." });
  const audit = isWorking(run) ? null : await auditOf(client, path, signal);
  const line = run.commands?.audit && commandLine(run.commands.audit);
  const failed = failedStep(run) === "audit" && run.error && failure(run.error);
  if (isWorking(run) || audit === null) {
    return [
      intro,
      failed,
      !isWorking(run) && element("div", { class: "buttons" },
        button("Audit the images", start, { id: "start-audit", kind: "main" })),
      progress.part,
      line,
    ];
  }
  const change = async (content) => {
    await client.exclude(path, content);
    announce(changeInWords(content));
    await again();
  };
  return [
    failed,
    run.is_fixed ? fixedNote(run) : verdict(audit, start, context),
    element("div", { class: "beside" },
      element("div", { class: "findings" }, ...findingsOf(audit, change, context)),
      element("aside", { class: "card", "aria-labelledby": "classes-title" },
        element("h4", { id: "classes-title", text: "Classes" }),
        classBars(audit.classes, (one) => (run.is_fixed ? [] : [classButton(one, audit, change)])),
        leftOut(audit, run, change))),
    line,
  ];
}

/** "mass is left out.", "12 images are taken back in.": said once it is so. */
function changeInWords(content) {
  const [[what, names]] = Object.entries(content); // one list at a time
  const subject = names.length === 1 ? `${names[0]} is` : `${count(names.length, "image")} are`;
  return `${subject} ${what.startsWith("include") ? "taken back in" : "left out"}.`;
}

async function auditOf(client, path, signal) {
  try {
    return await client.audit(path, signal);
  } catch (error) {
    if (error.status === 404 || error.status === 409) return null; // none was made yet
    throw error;
  }
}

/** What the step says as a whole, and what comes next. */
function verdict(audit, start, { go }) {
  const mend = audit.findings.filter((one) => one.severity === "error").length;
  const care = audit.findings.filter((one) => one.severity === "warning").length;
  if (!audit.current) { // something was left out or taken back since
    return element("div", { class: "verdict" },
      element("p", {}, element("strong", { text: "You changed what is left out. " }),
        "The findings below are from before. Audit the images again."),
      element("div", { class: "buttons" },
        button("Audit again", start, { id: "start-audit", kind: "main" })));
  }
  const passed = audit.would_train;
  const said = passed
    ? ["Nothing here stops the training. ",
      care > 0 ? `Read ${count(care, "finding")} marked “Take care” first.` : ""]
    : [`${count(mend, "finding")} must be mended before training. `,
      "Leave out the class or the images concerned, or mend the folder, and audit again."];
  return element("div", { class: passed ? "verdict good" : "verdict bad" },
    element("p", {}, element("strong", { text: said[0] }), said[1]),
    element("div", { class: "buttons" },
      passed ? link("Next: the plan", go("plan"), { class: "button main", id: "next" }) : "",
      button("Audit again", start, { id: "start-audit" })));
}

function findingsOf(audit, change, context) {
  if (audit.findings.length === 0) {
    return [element("p", { class: "empty", text: "Nothing was found. That is rare and good." })];
  }
  const sorted = [...audit.findings].sort((one, other) => (
    ORDER.indexOf(one.severity) - ORDER.indexOf(other.severity)
  ));
  return sorted.map((finding, place) => {
    const name = `finding-${place}`;
    return element("article", { class: `card finding ${finding.severity}`, "aria-labelledby": name },
      element("h4", { id: name },
        element("span", { class: "severity", text: SEVERITIES[finding.severity] }),
        element("span", { class: "unseen", text: ": " }),
        titleOf(finding)),
      element("p", {}, ...withFlags(finding.message)),
      element("p", { class: "fix" }, element("b", { text: "What to do: " }), ...withFlags(finding.fix)),
      ...(context.run.is_fixed ? [] : classesOf(finding, name, audit, change)),
      imagesOf(finding, name, audit, change, context));
  });
}

const titleOf = ({ code }) => capital(code.replaceAll("_", " "));

/** A button for each class that the finding asks to leave out. */
function classesOf({ fix }, place, audit, change) {
  const dropped = droppedBy(fix, audit.classes.map(({ name }) => name));
  const named = audit.classes.filter(({ name }) => dropped.has(name));
  if (named.length === 0) return [];
  return [element("div", { class: "buttons" }, ...named.map(({ name }) => {
    const id = `${place}-class-${name}`;
    return audit.dropped.includes(name)
      ? button(`Take ${name} back in`, doing(() => change({ include_classes: [name] })), { id })
      : button(`Leave out ${name}`, doing(() => change({ classes: [name] })), { id, kind: "main" });
  }))];
}

/** The classes that a sentence names after --drop-class: of "mass" and "mass_large" the longer. */
export function droppedBy(text, names) {
  const longestFirst = [...names].sort((one, other) => other.length - one.length);
  return new Set(text.split("--drop-class ").slice(1).map((rest) => (
    longestFirst.find((name) => rest.startsWith(`"${name}"`) || isWhole(rest, name)))));
}

/** Whether a text begins with a name, and not with a longer one of no class. */
const isWhole = (text, name) => text.startsWith(name) && /^($|[\s,;)]|[.](\s|$))/.test(text.slice(name.length));

function classButton({ name }, audit, change) {
  const isOut = audit.dropped.includes(name);
  const id = `class-${name}`;
  return isOut
    ? button("Take back in", doing(() => change({ include_classes: [name] })), {
      id, kind: "quiet", label: `Take class ${name} back in`,
    })
    : button("Leave out", doing(() => change({ classes: [name] })), {
      id, kind: "quiet", label: `Leave out class ${name}`,
    });
}

/** The images of a finding, in their groups. */
function imagesOf(finding, place, audit, change, context) {
  const groups = (finding.files ?? []).map((one) => (Array.isArray(one) ? one : [one]));
  if (groups.length === 0) return "";
  const single = groups.every((group) => group.length === 1);
  const most = single ? FIRST_IMAGES : FIRST_GROUPS;
  const drawImages = (images) => element("ul", { class: "group" }, ...images.map((image) => (
    element("li", {}, thumbnail(context, image),
      context.run.is_fixed ? "" : imageButton(image, place, audit, change))
  )));
  const drawGroup = (group) => (single || group.length <= MOST_IN_GROUP ? drawImages(group)
    : element("div", {}, drawImages(group.slice(0, MOST_IN_GROUP)),
      element("p", { class: "hint", text: `and ${count(group.length - MOST_IN_GROUP, "image")} more in this group` })));
  const joined = (few) => (single ? [drawGroup(few.flat())] : few.map(drawGroup));
  const what = single ? "images" : "groups";
  const part = element("div", { class: "images" }, ...joined(groups.slice(0, most)));
  if (finding.sets > groups.length) {
    part.prepend(element("p", { class: "hint all", text: `${groups.length} of ${count(finding.sets, what.slice(0, -1))} `
      + "are shown. The file audit.json in the folder of the run names all." }));
  } else if (single && groups.length > 1 && !context.run.is_fixed) {
    part.prepend(wholeButton(groups.flat(), place, audit, change));
  }
  if (groups.length <= most) return part;
  const rest = groups.slice(most);
  const more = element("details", { id: `${place}-more` },
    element("summary", { text: `Show ${count(rest.length, single ? "more image" : "more group")}` }));
  more.addEventListener("toggle", () => {
    if (more.open && more.childElementCount === 1) {
      more.append(element("div", { class: "images" }, ...joined(rest)));
    }
  });
  part.append(more);
  return part;
}

/** Leaves all images of a finding out at once, or takes them back in. */
function wholeButton(images, place, audit, change) {
  const areOut = images.every((image) => audit.excluded.includes(image));
  const content = areOut ? { include_images: images } : { images };
  const name = areOut ? `Take all ${images.length} back in` : `Leave all ${images.length} out`;
  return element("div", { class: "all" }, button(name, doing(() => change(content)), {
    id: `${place}-all`, kind: "quiet",
  }));
}

function imageButton(image, place, audit, change) {
  const isOut = audit.excluded.includes(image);
  return button(isOut ? "Left out" : "Leave out", doing(() => change(
    isOut ? { include_images: [image] } : { images: [image] },
  )), { id: `${place}-image-${image}`, kind: "quiet", pressed: isOut, label: `Leave out ${image}` });
}

/** What is left out, and the way back. */
function leftOut({ dropped, excluded }, { is_fixed: isFixed }, change) {
  if (dropped.length + excluded.length === 0) return "";
  const line = (name, what, content) => element("li", {},
    element("span", { text: name }),
    isFixed ? "" : button("Take back in", doing(() => change(content)), {
      id: `left-out-${what}-${name}`, kind: "quiet", label: `Take ${what} ${name} back in`,
    }));
  return element("div", { class: "left-out" },
    element("h4", { text: "Left out" }),
    element("ul", {},
      ...dropped.map((name) => line(name, "class", { include_classes: [name] })),
      ...excluded.map((image) => line(image, "image", { include_images: [image] }))));
}

/** Said where a run has begun training, so that nothing of it can be changed. */
export function fixedNote({ data }) {
  return element("div", { class: "verdict" },
    element("p", {}, "This run has begun training, so what it was made of stays as it is. To change "
      + "something, make a new run with the same images."),
    data === null ? "" : element("div", { class: "buttons" },
      link("New run", `#/data?${new URLSearchParams({ path: data })}`, { class: "button" })));
}

/** What went wrong, in the words of the command. */
export function failure(text) {
  return element("div", { class: "alert", role: "alert" },
    element("p", {}, element("strong", { text: "It did not work. " }), text));
}
