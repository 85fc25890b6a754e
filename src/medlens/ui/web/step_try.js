// Step 6: the page of `serve`, for this run.

import { announce, element } from "./serve/dom.js";
import { button, commandLine, doing, fileLink, link } from "./parts.js";

/** What stands in the step. */
export function drawTry({ client, run, path, go }) {
  if (!run.report) return [notYet(go)];
  const place = element("div", { class: "buttons" });
  const start = doing(async () => {
    const { address, token } = await client.tryImages(path);
    const open = fileLink("Open the page", `${address}#${token}`, { kind: "button main" });
    place.replaceChildren(open);
    open.focus();
    announce("The classifier is ready.");
  });
  place.append(button("Start the classifier", start, { id: "start-try", kind: "main" }));
  return [
    element("p", { class: "lead-text", text: "Give the classifier images that it has not seen. It "
      + "answers with a probability for each class, says when an image is unlike those it was "
      + "trained on, and shows by a heat map where it looked. The images are not kept." }),
    element("p", { text: "Starting it takes some seconds: the network is loaded. The page opens "
      + "beside this one. One classifier is ready at a time." }),
    place,
    run.commands?.serve && commandLine(run.commands.serve),
  ];
}

/** Said where a step needs a run that is done. */
export function notYet(go) {
  return element("div", { class: "empty" },
    element("p", { text: "There is nothing yet: this run has to be trained first." }),
    element("div", { class: "buttons" }, link("Go to the training", go("train"), { class: "button main" })));
}
