// Loss and accuracy over the epochs, drawn as SVG, and the same as a table.

import { element } from "./serve/dom.js";
import { count } from "./serve/words.js";
import { inThree } from "./words.js";

const NAMESPACE = "http://www.w3.org/2000/svg";
const WIDTH = 460;
const HEIGHT = 260;
const EDGE = { left: 46, right: 12, top: 14, bottom: 40 };
const TICKS = 4;
const LINES = [
  { key: "", name: "Training", kind: "train" },
  { key: "val_", name: "Validation", kind: "validation" },
];

const TRAININGS = { head: "The head", fine_tune: "Fine-tuning" };

/** "The head", "Fold 2": which training the epochs are of. */
function trainingInWords(training = "head") {
  return TRAININGS[training] ?? `Fold ${training.replace("fold_", "")}`;
}

/** Makes the two curves, of the latest training; they are hidden until it has two epochs. */
export function createCurves() {
  const charts = [createChart("loss", "Loss", "lower is better"),
    createChart("accuracy", "Accuracy", "higher is better")];
  const table = element("div", {
    class: "scroll", tabindex: "0", role: "region", "aria-label": "All epochs",
  });
  const title = element("h4", { id: "curves-title" });
  const part = element("section", { class: "curves", "aria-labelledby": "curves-title" },
    title,
    element("div", { class: "charts" }, ...charts.map((chart) => chart.part)),
    element("p", { class: "hint", text: "These numbers steer the training and are no result: the report "
      + "is, of images that no epoch has seen. Validation images stop the training and never teach. Where "
      + "their loss rises while that of training falls, the network learns by heart; the best epoch is kept." }),
    element("details", { id: "epochs" }, element("summary", { text: "The same as a table" }), table));
  part.hidden = true;
  let drawn = "";

  function update(all) {
    const training = all.at(-1)?.training;
    const epochs = all.filter((one) => one.training === training);
    const now = JSON.stringify([epochs.at(-1), epochs.length]);
    if (now === drawn) return;
    drawn = now;
    part.hidden = epochs.length < 2;
    if (part.hidden) return;
    title.textContent = `${trainingInWords(training)}, epoch by epoch`;
    for (const chart of charts) chart.update(epochs);
    table.replaceChildren(tableOf(epochs));
  }

  return { part, update };
}

function createChart(measure, title, direction) {
  const drawing = shape("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" });
  const part = element("figure", { class: "card chart" },
    element("figcaption", {}, element("b", { text: title }), ` (${direction})`, legend()), drawing);

  function update(epochs) {
    const values = epochs.flatMap((one) => LINES.map(({ key }) => one[key + measure]))
      .filter(Number.isFinite);
    const scale = scaleOf(measure, values, epochs);
    drawing.setAttribute("aria-label", inWords(measure, title, epochs));
    const lines = LINES.map(({ key, kind }) => lineOf(epochs, key + measure, kind, scale));
    drawing.replaceChildren(...axes(scale), ...lines);
  }

  return { part, update };
}

const legend = () => element("span", { class: "legend", "aria-hidden": "true" },
  ...LINES.map(({ name, kind }) => element("span", { class: kind, text: name })));

/** From epochs and values to places in the drawing. */
function scaleOf(measure, values, epochs) {
  const first = epochs[0].epoch;
  const last = epochs.at(-1).epoch;
  const low = measure === "accuracy" ? Math.max(0, Math.floor(10 * Math.min(...values)) / 10) : 0;
  const step = measure === "accuracy" ? (1 - low) / TICKS : niceStep(Math.max(...values) / TICKS);
  const high = measure === "accuracy" ? 1 : step * Math.ceil(Math.max(...values) / step);
  const width = WIDTH - EDGE.left - EDGE.right;
  const height = HEIGHT - EDGE.top - EDGE.bottom;
  return {
    first, last, low, high, step,
    x: (epoch) => EDGE.left + (width * (epoch - first)) / (last - first),
    y: (value) => EDGE.top + (height * (high - value)) / (high - low),
  };
}

function niceStep(rough) {
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].find((one) => one * power >= rough) * power;
}

function axes({ first, last, low, high, step, x, y }) {
  const made = [];
  for (let number = 0; low + number * step <= high + step / 100; number += 1) {
    const value = low + number * step;
    made.push(
      shape("line", { class: "grid", x1: EDGE.left, x2: WIDTH - EDGE.right, y1: y(value), y2: y(value) }),
      shape("text", { class: "tick", x: EDGE.left - 7, y: y(value) + 4, "text-anchor": "end" }, short(value)),
    );
  }
  const middle = Math.round((first + last) / 2);
  for (const epoch of new Set([first, middle, last])) {
    made.push(shape("text", {
      class: "tick", x: x(epoch), y: HEIGHT - 22, "text-anchor": epoch === last ? "end" : "middle",
    }, String(epoch)));
  }
  made.push(shape("text", {
    class: "tick", x: (EDGE.left + WIDTH - EDGE.right) / 2, y: HEIGHT - 5, "text-anchor": "middle",
  }, "Epoch"));
  return made;
}

const short = (value) => String(Number(value.toFixed(3)));

function lineOf(epochs, key, kind, { x, y }) {
  const known = epochs.filter((one) => Number.isFinite(one[key]));
  const points = known.map((one) => `${x(one.epoch).toFixed(1)},${y(one[key]).toFixed(1)}`);
  return shape("polyline", { class: `curve ${kind}`, points: points.join(" ") });
}

/** The curve for those who do not see it. */
function inWords(measure, title, epochs) {
  const last = epochs.at(-1);
  const better = measure === "loss" ? (one, other) => one < other : (one, other) => one > other;
  const key = `val_${measure}`;
  const best = epochs.reduce((found, one) => (better(one[key], found[key]) ? one : found), epochs[0]);
  return `${title} after ${count(last.epoch, "epoch")}: training ${inThree(last[measure])}, `
    + `validation ${inThree(last[key])}. Best validation: ${inThree(best[key])} in epoch ${best.epoch}.`;
}

function tableOf(epochs) {
  const heads = ["Epoch", "Loss", "Validation loss", "Accuracy", "Validation accuracy"];
  const rows = epochs.map((one) => element("tr", {},
    element("th", { scope: "row", text: String(one.epoch) }),
    ...["loss", "val_loss", "accuracy", "val_accuracy"].map((key) => (
      element("td", { class: "number", text: inThree(one[key]) })
    ))));
  return element("table", { class: "plain" },
    element("thead", {}, element("tr", {}, ...heads.map((text) => element("th", { scope: "col", text })))),
    element("tbody", {}, ...rows));
}

function shape(tag, properties, ...children) {
  const made = document.createElementNS(NAMESPACE, tag);
  for (const [name, value] of Object.entries(properties)) made.setAttribute(name, String(value));
  made.append(...children);
  return made;
}
