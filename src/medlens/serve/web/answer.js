// An answer in bars and words.

import { byId, element, show } from "./dom.js";
import {
  decisionInWords, either, inDecimals, setInWords, unfamiliarInWords,
} from "./words.js";

const MOST_BARS = 8;

/** Writes what is said of an item, also where it was refused or has no answer yet. */
export function showAnswer(item, model) {
  const { answer } = item;
  byId("warnings").replaceChildren(...warningsOf(item));
  if (!answer || answer.unreadable) return;
  byId("answer-part").classList.toggle("doubtful", answer.unfamiliar);
  byId("predicted").replaceChildren(
    element("strong", {}, answer.predicted),
    element("span", {}, `probability ${inDecimals(answer.probabilities[answer.predicted])}`),
  );
  showBars(answer, model);
  showWords(answer, model);
}

function warningsOf({ answer }) {
  if (!answer) return [element("p", { class: "note" }, "There is no answer for this image yet.")];
  if (answer.unreadable) {
    return [element("p", { class: "alert" }, element("strong", {}, "Refused. "), answer.unreadable)];
  }
  if (!answer.unfamiliar) return [];
  const title = element("strong", {}, "Unfamiliar image. ");
  return [element("p", { class: "alert" }, title, unfamiliarInWords(answer))];
}

/** One bar for each class, the most probable first; the rest of many behind a fold. */
function showBars(answer, model) {
  const classes = model.classes.toSorted((one, other) => (
    answer.probabilities[other] - answer.probabilities[one]
  ));
  const bars = classes.map((name) => barOf(name, answer, model));
  byId("bars").replaceChildren(...bars.slice(0, MOST_BARS));
  byId("more-bars").replaceChildren(...bars.slice(MOST_BARS));
  byId("more-count").textContent = `${bars.length - MOST_BARS} more classes`;
  show("more", bars.length > MOST_BARS);
}

function barOf(name, answer, model) {
  const probability = answer.probabilities[name];
  const fill = element("span", { class: "fill" });
  fill.style.width = `${probability * 100}%`;
  const bar = element("span", { class: "track", "aria-hidden": "true" }, fill);
  const made = element(
    "li", { class: name === answer.predicted ? "first" : "" },
    element("span", { class: "class" }, name),
    element("span", { class: "number" }, inDecimals(probability)),
    bar,
  );
  const point = model.operating_point;
  if (point && name === model.positive_class) {
    const tick = element("span", { class: "tick" });
    tick.style.left = `${point.threshold * 100}%`;
    bar.append(tick);
    const text = `operating point ${inDecimals(point.threshold)}`;
    const label = element("span", { class: "mark" }, text);
    // Left or right of its tick, where there is more room.
    label.style.left = point.threshold < 0.5 ? `${point.threshold * 100}%` : "auto";
    label.style.right = point.threshold < 0.5 ? "auto" : `${100 - point.threshold * 100}%`;
    made.append(element("span", { class: "marks" }, label));
  }
  return made;
}

function showWords(answer, model) {
  const words = [];
  if (answer.decision && model.operating_point) {
    words.push(["Decision", answer.decision, decisionInWords(answer, model)]);
  }
  if (answer.prediction_set && model.prediction_set_level) {
    words.push(["Prediction set", either(answer.prediction_set), setInWords(answer, model)]);
  }
  if (!answer.unfamiliar) {
    words.push(["Unfamiliar", "no", "It lies as near to the training images as others do."]);
  }
  byId("words").replaceChildren(...words.map(([title, value, reason]) => element(
    "div", {},
    element("dt", {}, title),
    element("dd", {}, element("strong", {}, value), " ", element("span", {}, reason)),
  )));
}
