// Step 1: which images the run is about.

import { element } from "./serve/dom.js";
import { count } from "./serve/words.js";
import { classBars, link } from "./parts.js";
import { imagesInWords, sumOf } from "./words.js";

/** What stands in the step. */
export async function drawData({ client, run, go, signal }) {
  // Of images elsewhere, as a run that a terminal began may have, the page knows the name alone.
  const isElsewhere = run.data === null;
  const { classes } = isElsewhere ? { classes: [] }
    : await client.folders(run.data, signal).catch(() => ({ classes: [] }));
  return [
    element("p", { class: "lead-text" }, "The images of this run lie in ",
      element("b", { text: run.data_name }), isElsewhere
        ? ", outside of the folder that this page was opened for: it does not show them."
        : ". They are read where they are; nothing is copied into that folder or changed in it."),
    classes.length > 0 && element("div", { class: "card narrow" },
      element("h4", { text: `${imagesInWords(sumOf(classes))}, in ${count(classes.length, "class", "classes")}` }),
      classBars(classes)),
    element("div", { class: "buttons" },
      link("Next: the audit", go("audit"), { class: "button main", id: "next" }),
      link("Choose another folder", "#/data?path=", { class: "button" })),
  ];
}
