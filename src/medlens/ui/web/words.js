// What states, times and numbers are called on the page.

import { count } from "./serve/words.js";

export const STATES = {
  new: "not audited yet",
  auditing: "being audited",
  audited: "audited",
  planning: "being planned",
  planned: "planned",
  training: "training",
  stopped: "stopped",
  failed: "failed",
  done: "done",
};

/** The step that failed, or null; a run that a terminal began failed in its training. */
export const failedStep = (run) => (run.state === "failed" ? run.failed_step ?? "train" : null);

const WORKING = ["auditing", "planning", "training"];

/** Whether a step of a run is under way. */
export const isWorking = (run) => WORKING.includes(run.state);

/** "about 2 minutes left"; "" where nobody knows. */
export function timeLeft(seconds) {
  if (!Number.isFinite(seconds)) return "";
  return seconds < 2 ? "nearly done" : `about ${duration(seconds)} left`;
}

/** A time in its largest unit or two: "8 seconds", "3 minutes", "1 hour 20 minutes". */
export function duration(seconds) {
  if (seconds < 10) return count(Math.max(1, Math.round(seconds)), "second");
  if (seconds < 55) return count(5 * Math.round(seconds / 5), "second");
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return count(Math.max(1, minutes), "minute");
  const hours = Math.floor(minutes / 60);
  const rest = minutes % 60;
  return rest ? `${count(hours, "hour")} ${count(rest, "minute")}` : count(hours, "hour");
}

/** A number in three decimals; a dash where there is none. */
export const inThree = (value) => (Number.isFinite(value) ? value.toFixed(3) : "–");

/** "0.59 (0.46 to 0.72)": a number with its 95 % interval, which stays in one line. */
export function withInterval(measured) {
  if (!measured || !Number.isFinite(measured.value)) return "–";
  const { value, ci95 } = measured;
  return ci95 ? `${value.toFixed(2)} (${ci95[0].toFixed(2)}\u00a0to\u00a0${ci95[1].toFixed(2)})` : value.toFixed(2);
}

/** "0.587 (0.461 to 0.723)": the same in three decimals. */
export function intervalOf(measured) {
  const ci95 = measured?.ci95;
  return ci95 ? `${inThree(measured.value)} (${inThree(ci95[0])} to ${inThree(ci95[1])})` : inThree(measured?.value);
}

/** When something was changed, in the reader's own time; a dash where nobody knows. */
export function moment(text) {
  return text === "" ? "–" : new Date(text).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });
}

/** With a capital letter at the beginning. */
export const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

/** "90 images"; in words where they are too many to be counted on the page (null). */
export function imagesInWords(images) {
  return Number.isFinite(images) ? count(images, "image") : "more than 20,000 files, not counted";
}

/** All images of the classes; null where one is not counted. */
export function sumOf(classes) {
  const isCounted = classes.every((one) => Number.isFinite(one.images));
  return isCounted ? classes.reduce((sum, one) => sum + one.images, 0) : null;
}

/** The last part of a path. */
export const lastPart = (path) => path.split("/").at(-1);

/** What a value of an option is called. */
export function valueInWords(value) {
  if (value === null || value === undefined || value === "") return "none";
  if (value === true) return "yes";
  if (value === false) return "no";
  if (Array.isArray(value)) return value.map(valueInWords).join(", ");
  return String(value);
}

/** What a head of the plan is called: "256 and 64 units, dropout 0.5, weight decay 0.01". */
export function headInWords({ units, dropout, weight_decay: decay }) {
  const size = units.length > 0 ? `${units.join(" and ")} units` : "linear";
  return `${size}, dropout ${dropout}, weight decay ${decay}`;
}
