// How far the work is: a bar, a sentence, and what a screen reader hears of it.

import { announce, element } from "./serve/dom.js";
import { count } from "./serve/words.js";
import { duration, isWorking, timeLeft } from "./words.js";

/** What is done between two stages that count something. */
const nameless = (stages) => (stages.length > 0 ? "Finishing" : "Starting");

/** Makes the part that shows how far the work of a run is; `update` is given each answer. */
export function createProgress(first) {
  const title = element("h4", { class: "stage", id: "progress-title" });
  const bar = element("progress", { "aria-labelledby": "progress-title" });
  const text = element("p", { class: "amount", id: "progress-text" });
  const stages = element("ol", { class: "stages", "aria-label": "What is done already" });
  const part = element("section", { class: "card progress", "aria-label": "Progress" },
    title, bar, text, stages);
  part.hidden = !isWorking(first);
  const watchers = [];
  let heard = "";

  function update(run) {
    watchers.forEach((watch) => watch(run));
    part.hidden = !isWorking(run);
    if (part.hidden) return;
    const { stage: told, done, total, unit, seconds_left: left, stages: past = [] } = run.progress ?? {};
    const stage = told || nameless(past);
    title.textContent = stage;
    if (total > 0) {
      bar.max = total;
      bar.value = Math.min(done, total);
    } else {
      bar.removeAttribute("value");
    }
    text.textContent = [amount(done, total, unit), timeLeft(left)].filter(Boolean).join(" · ");
    stages.replaceChildren(...past.map(pastStage));
    stages.hidden = !stages.hasChildNodes();
    tell(stage, done, total, text.textContent);
  }

  /** A screen reader hears of every stage and every quarter of it, not of every second. */
  function tell(stage, done, total, words) {
    const now = `${stage} ${total > 0 ? Math.floor((4 * done) / total) : 0}`;
    if (now === heard) return;
    heard = now;
    announce(words ? `${stage}: ${words}.` : `${stage}.`);
  }

  /** `watch` adds what shall be told of every answer as well. */
  return { part, update, watch: (watcher) => watchers.push(watcher) };
}

function amount(done, total, unit) {
  if (!Number.isFinite(done)) return "";
  const one = (unit ?? "").replace(/s$/, "");
  const many = total > 0 ? count(total, one || "step", unit || "steps") : unit;
  return total > 0 ? `${done.toLocaleString("en")} of ${many}` : `${done.toLocaleString("en")} ${many ?? ""}`;
}

/** A stage that is over, and how long it took. */
function pastStage({ stage, seconds }) {
  return element("li", {}, element("span", { text: stage }),
    element("span", { class: "seconds", text: duration(seconds) }));
}
