// Step 7: the run as one file, and other formats of the network.

import { element } from "./serve/dom.js";
import { save } from "./serve/csv.js";
import { button, commandLine, doing } from "./parts.js";
import { notYet } from "./step_try.js";
import { failure } from "./step_audit.js";

const WITH_INT8 = "litert"; // the one format that can be had in whole numbers

/** What stands in the step. */
export async function drawHandOver({ client, run, path, again, go }) {
  if (!run.report) return [notYet(go)];
  const { extras } = await client.about();
  return [
    element("p", { class: "lead-text", text: "Someone else can use one zip file with medlens as it is: "
      + "to answer images, to serve the page, or to test it on images of another hospital." }),
    element("p", { class: "alert care" }, element("strong", { text: "Take care. " }),
      "The whole run names image files and patients, as your data do, and its report shows pictures. "
      + "The classifier alone holds no picture and no name, besides those of the classes."),
    element("div", { class: "buttons" },
      button("Save the classifier alone", doing(async () => {
        save(await client.zip("zip", path, { only_classifier: true }), `${run.name}-classifier.zip`);
      }), { id: "save-classifier", kind: "main" }),
      button("Save the whole run", doing(async () => {
        save(await client.zip("zip", path), `${run.name}.zip`);
      }), { id: "save-run" })),
    commandLine(run.commands.zip_classifier, "Saving the classifier alone, on the command line"),
    commandLine(run.commands.zip_run, "Saving the whole run, on the command line"),
    commandLine(run.commands.use, "What the other person types for the classifier alone"),
    element("section", { class: "card", "aria-labelledby": "formats-title" },
      element("h4", { id: "formats-title", text: "The network alone, for other programs" }),
      ...formats(extras?.export ?? [], { client, run, path, again })),
    run.failed_step === "export" && failure(run.error),
  ];
}

function formats(available, { client, run, path, again }) {
  if (available.length === 0) {
    return [element("p", {}, "No further format is installed. ",
      element("code", { text: "pip install 'medlens[export]'" }), " adds ONNX, LiteRT and OpenVINO.")];
  }
  const choice = element("select", { id: "format" },
    ...available.map((name) => element("option", { value: name, text: name })));
  const small = element("input", { id: "int8", type: "checkbox" });
  const line = element("div");
  const fit = () => {
    small.disabled = choice.value !== WITH_INT8;
    const isSmall = small.checked && !small.disabled;
    line.replaceChildren(commandLine(run.commands[isSmall ? "export_int8" : "export"][choice.value]));
  };
  choice.addEventListener("change", fit);
  small.addEventListener("change", fit);
  fit();
  const start = doing(async () => {
    await client.exportTo(path, choice.value, small.checked && !small.disabled);
    await again();
  });
  const isExporting = run.exports.some((one) => one.state === "exporting");
  const made = run.exports.map(({ format, state }) => element("li", {}, state === "ready"
    ? button(`Save ${format}`, doing(async () => {
      save(await client.zip("export", path, { format }), `${run.name}-${format}.zip`);
    }), { id: `save-${format}` })
    : element("span", { role: "status", text: `${format} is being made and tried …` })));
  return [
    element("p", { class: "hint", text: "After the export medlens runs both networks on the same images and "
      + "refuses the file if their answers differ." }),
    element("div", { class: "field-row" },
      element("label", { for: "format", text: "Format" }), choice,
      element("label", { class: "check" }, small, "Smaller, in whole numbers (int8; LiteRT alone)"),
      button("Export", start, { id: "export", disabled: isExporting })),
    made.length > 0 && element("ul", { class: "made" }, ...made),
    line,
  ].filter(Boolean);
}
