// Step 7: the run as one file, and other formats of the network.

import { byId, element } from "./serve/dom.js";
import { fileAddress } from "./client.js";
import { button, commandLine, doing, fileLink } from "./parts.js";
import { notYet } from "./step_try.js";
import { failure } from "./step_audit.js";
import { isWorking } from "./words.js";

/** What stands in the step. */
export async function drawHandOver({ client, run, path, progress, again, go }) {
  if (!run.report) return [notYet(go)];
  const { extras } = await client.about();
  return [
    element("p", { class: "lead-text", text: "The run as one file: the classifier, the report, every "
      + "number and how they came about. Someone else can use it with medlens as it is." }),
    element("p", { class: "alert care" }, element("strong", { text: "Before you hand it over: " }),
      "the file holds names of image files, patient names or numbers where the data have them, and pictures in the report. Ask who is "
      + "responsible for the data."),
    element("div", { class: "buttons" },
      fileLink("Save the run as a zip file", fileAddress("zip", path), { save: true, kind: "button main" })),
    run.commands?.use && commandLine(run.commands.use, "What the other person types"),
    element("section", { class: "card", "aria-labelledby": "formats-title" },
      element("h4", { id: "formats-title", text: "The network alone, for other programs" }),
      ...formats(extras?.export ?? [], { client, run, path, again })),
    progress.part,
    run.error && failure(run.error),
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
  const start = doing(async () => {
    await client.exportTo(path, byId("format").value, byId("int8").checked);
    await again();
  });
  const made = (run.exports ?? []).map((one) => element("li", {}, fileLink(
    `Save ${one.format}${one.int8 ? " in whole numbers" : ""}`,
    fileAddress("export", path, { format: one.format }), { save: true },
  )));
  return [
    element("p", { class: "hint", text: "After the export medlens runs both networks on the same images and "
      + "refuses the file if their answers differ." }),
    element("div", { class: "field-row" },
      element("label", { for: "format", text: "Format" }), choice,
      element("label", { class: "check" }, small, "Smaller and faster, in whole numbers (int8)"),
      button("Export", start, { id: "export", disabled: isWorking(run) })),
    made.length > 0 && element("ul", { class: "made" }, ...made),
  ].filter(Boolean);
}
