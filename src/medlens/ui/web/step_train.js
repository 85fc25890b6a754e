// Step 4: training, with its progress and its curves; stop, and go on.

import { element } from "./serve/dom.js";
import { button, commandLine, doing, link } from "./parts.js";
import { createCurves } from "./curves.js";
import { failure } from "./step_audit.js";
import { failedStep, isWorking } from "./words.js";

/** What stands in the step. */
export function drawTrain({ client, run, path, progress, again, go, signal }) {
  const curves = createCurves();
  progress.watch((told) => curves.update(told.progress?.epochs ?? told.epochs ?? []));
  const train = (resume) => doing(async () => {
    await client.train(path, resume);
    await again();
  });
  const stop = doing(async () => {
    await client.stop(path);
    await again();
  });
  const hasFailed = failedStep(run) === "train";
  const { title, text, buttons, look = "" } = {
    training: {
      title: "Training is under way. ",
      text: "You may close this page or switch the screen off: it goes on. Only the computer must stay on.",
      buttons: [button("Stop", stop, { id: "stop" })],
    },
    stopped: {
      title: "Training is stopped. ",
      text: "What is finished is kept; it goes on from there.",
      buttons: [button("Go on", train(true), { id: "resume", kind: "main" })],
    },
    failed: {
      title: "",
      text: run.is_fixed
        ? "Mend what is said above, then go on: what is finished is kept."
        : "Mend what is said above, then start again.",
      buttons: [run.is_fixed
        ? button("Go on", train(true), { id: "resume", kind: "main" })
        : button("Start again", train(false), { id: "train", kind: "main" })],
    },
    done: {
      title: "Training is done. ", text: "Now look at what it is worth.", look: "good",
      buttons: [link("Next: the report", go("report"), { class: "button main", id: "next" })],
    },
  }[run.state === "failed" && !hasFailed ? "" : run.state] ?? {
    title: "",
    text: "The pretrained network looks at each image once; then a small network on top of it learns "
      + "to tell the classes apart. At the end it is tested on images that it has never seen.",
    buttons: [button("Start the training", train(false), {
      id: "train", kind: "main", disabled: isWorking(run),
    })],
  };
  return [
    hasFailed && run.error && failure(run.error),
    element("div", { class: `verdict ${look}` },
      element("p", {}, element("strong", { text: title }), text),
      element("div", { class: "buttons" }, ...buttons)),
    progress.part,
    curves.part,
    logOf(client, path, progress, signal),
    ...lines(run),
  ];
}

function lines({ is_fixed: isFixed, state, commands }) {
  const goesOn = isFixed && ["stopped", "failed"].includes(state);
  const command = goesOn ? commands.resume : commands.train;
  return command ? [commandLine(command)] : [];
}

/** What the command says, for whoever wants to read it. */
function logOf(client, path, progress, signal) {
  const text = element("pre", { class: "log", tabindex: "0", "aria-label": "What medlens wrote" });
  const part = element("details", { id: "log" }, element("summary", { text: "What medlens wrote" }), text);
  const read = async () => {
    if (!part.open || signal.aborted) return;
    try {
      const { lines: written } = await client.log(path, signal);
      text.textContent = written.join("\n") || "Nothing yet.";
    } catch (error) {
      if (!signal.aborted) text.textContent = error.message;
    }
  };
  part.addEventListener("toggle", read);
  progress.watch(read);
  return part;
}
