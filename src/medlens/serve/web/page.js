// The page: images in, answers out. Every other file does one thing; this one tells the story.

import { announce, byId, complain, element, show } from "./dom.js";
import { createClient } from "./server.js";
import { createDetail } from "./detail.js";
import { createTable } from "./table.js";
import { csvFile, save } from "./csv.js";
import { filesOfDrop, filesOfInput } from "./files.js";
import { count, inOneSentence } from "./words.js";
import { sendAll } from "./sending.js";
import { askForToken } from "./token.js";

const client = createClient(askForToken, showBusy);
const detail = createDetail(client);
const table = createTable((item) => choose(item, true), showPlace);
const state = { models: [], model: null, items: [], sending: null, quarter: 0 };
// As in page.css: there the table and the chosen image stand beside one another.
const SIDE_BY_SIDE = matchMedia("(min-width: 75rem)");

async function start() {
  try {
    state.models = (await client.models()).models;
  } catch (error) {
    complain(`The classifiers could not be listed. ${error.message}`);
    return;
  }
  const list = byId("model");
  list.replaceChildren(...state.models.map((one) => element("option", { text: one.name })));
  const several = state.models.length > 1;
  show("model", several);
  show("only-model", !several);
  byId("only-model").textContent = state.models[0].name;
  useModel(state.models[0]);
}

/** Changes the classifier; images that are here are sent to it anew. */
function useModel(model) {
  state.model = model;
  state.sending?.abort();
  state.sending = null;
  complain("");
  detail.close();
  const items = state.items.map(({ file, name }) => ({ file, name }));
  state.items = [];
  table.start(model);
  describe(model);
  if (items.length > 0) add(items);
}

function describe(model) {
  byId("classes").replaceChildren(...model.classes.map((name) => element("li", { text: name })));
  const size = `${model.image_size} × ${model.image_size} pixels`;
  const point = model.operating_point ? ` Operating point: ${model.operating_point.text}.` : "";
  byId("about-text").textContent = `Backbone: ${model.backbone}, ${size}.${point}`;
  show("about");
  for (const [id, address] of [["model-card", model.model_card], ["report", model.report]]) {
    if (address) byId(id).href = address;
    show(id, Boolean(address));
  }
  show("documents", Boolean(model.model_card || model.report));
}

/** Takes files in and sends them. */
async function take(found) {
  await started;
  if (!state.model) return; // it was said why there is none
  if (found.length === 0) {
    complain("There is no file in what was given.");
    return;
  }
  complain("");
  add(found);
}

function add(found) {
  const first = state.items.length;
  const items = found.map(({ file, name }, place) => (
    { file, name, number: first + place, answer: null, row: null }
  ));
  state.items.push(...items);
  table.add(items);
  setIntake(true);
  showSummary();
  if (!detail.item()) choose(items[0], false);
  send();
}

/** Makes the place for images small once there are some, and large again. */
function setIntake(hasImages) {
  document.body.classList.toggle("has-images", hasImages);
  byId("choose-files").textContent = hasImages ? "Add images" : "Choose images";
  byId("choose-folder").textContent = hasImages ? "Add a folder" : "Choose a folder";
  show("clear", hasImages);
  show("about", !hasImages);
}

async function send() {
  if (state.sending) {
    showProgress(); // the running one goes on until nothing is left
    return;
  }
  state.quarter = -1;
  const sending = new AbortController();
  state.sending = sending;
  showProgress();
  const current = () => state.sending === sending;
  try {
    while (current() && !sending.signal.aborted && state.items.some((item) => !item.answer)) {
      await sendAll(client, state.model.name, state.items, sending.signal, (answered) => {
        if (current()) showAnswers(answered);
      });
    }
  } catch (error) {
    if (current()) complain(`${error.message} ${left()}`);
  } finally {
    if (current()) end();
  }
}

function showAnswers(answered) {
  answered.forEach(table.update);
  showProgress();
  showSummary();
  if (answered.includes(detail.item())) choose(detail.item(), false);
}

function end() {
  state.sending = null;
  const unanswered = state.items.filter((item) => !item.answer).length;
  // What has the focus must not vanish under it.
  if (unanswered === 0 && byId("sending").contains(document.activeElement)) {
    byId("chosen-name").focus({ preventScroll: true });
  }
  show("stop", false);
  show("go-on", unanswered > 0);
  show("sending", unanswered > 0);
  if (unanswered > 0) {
    byId("progress-text").textContent = left();
    return;
  }
  table.sort();
  const refused = state.items.filter((item) => item.answer.unreadable).length;
  const summary = `${count(state.items.length, "image")} done, ${refused} refused.`;
  announce(state.items.length > 1 ? summary : inOneSentence(state.items[0]));
}

function left() {
  const unanswered = state.items.filter((item) => !item.answer).length;
  return `${unanswered} of ${count(state.items.length, "image")} not answered yet.`;
}

function showProgress() {
  const done = state.items.filter((item) => item.answer).length;
  show("sending");
  show("stop");
  show("go-on", false);
  byId("progress").max = state.items.length;
  byId("progress").value = done;
  byId("progress-text").textContent = `${done} of ${count(state.items.length, "image")}`;
  // A screen reader hears of every quarter, not of every request.
  const quarter = Math.floor((4 * done) / state.items.length);
  if (quarter !== state.quarter && done < state.items.length) {
    state.quarter = quarter;
    announce(`${done} of ${count(state.items.length, "image")} done.`);
  }
}

function showBusy(seconds) {
  const text = seconds > 0
    ? `The server is busy. Trying again in ${count(Math.ceil(seconds), "second")}.`
    : "";
  byId("busy").textContent = text;
}

/** Counts what was said of all images. */
function showSummary() {
  const several = state.items.length > 1;
  show("batch", several);
  show("steps", several);
  show("download-one", !several);
  show("results");
  const answers = state.items.map((item) => item.answer).filter(Boolean);
  const read = answers.filter((answer) => !answer.unreadable);
  const counts = new Map();
  for (const { predicted } of read) counts.set(predicted, (counts.get(predicted) ?? 0) + 1);
  const tally = state.model.classes
    .filter((name) => counts.has(name))
    .map((name) => `${name} ${counts.get(name)}`);
  const unfamiliar = read.filter((answer) => answer.unfamiliar).length;
  const parts = tally.length > 0 ? [`Predicted: ${tally.join(", ")}.`] : [];
  if (unfamiliar > 0) parts.push(`Unfamiliar: ${unfamiliar}.`);
  if (read.length < answers.length) parts.push(`Refused: ${answers.length - read.length}.`);
  byId("batch-title").textContent = count(state.items.length, "image");
  byId("batch-text").textContent = parts.join(" ");
}

/** Shows one image. `byHand` is false for the page's own choice, "step" for its neighbours. */
function choose(item, byHand) {
  table.mark(item);
  detail.open(item, state.model);
  showPlace();
  if (!byHand) return;
  if (SIDE_BY_SIDE.matches || byHand === "step") announce(inOneSentence(item));
  else byId("chosen-name").focus();
  if (byId("chosen").getBoundingClientRect().top < 0) byId("chosen").scrollIntoView();
}

/** Where the chosen image stands among all, and whether there is one before and after it. */
function showPlace() {
  const item = detail.item();
  if (!item) return;
  const several = state.items.length > 1;
  byId("chosen-place").textContent = several
    ? `${table.place(item)} of ${state.items.length}`
    : "";
  byId("previous").disabled = !table.neighbour(item, -1);
  byId("next").disabled = !table.neighbour(item, 1);
}

function step(by) {
  const item = table.neighbour(detail.item(), by);
  if (item) choose(item, "step");
}

function startAgain() {
  state.sending?.abort();
  state.sending = null;
  state.items = [];
  detail.close();
  table.start(state.model);
  setIntake(false);
  show("results", false);
  show("sending", false);
  complain("");
  byId("choose-files").focus();
}

function saveCsv() {
  const name = state.model.name.replaceAll(/[^\w.-]+/g, "_");
  save(csvFile(state.items, state.model), `predictions-${name}.csv`);
}

function listen() {
  byId("model").addEventListener("change", (event) => {
    useModel(state.models[event.target.selectedIndex]);
  });
  for (const [button, input] of [["choose-files", "files"], ["choose-folder", "folder"]]) {
    byId(button).addEventListener("click", () => byId(input).click());
    byId(input).addEventListener("change", (event) => {
      take(filesOfInput(event.target));
      event.target.value = ""; // the same file may be chosen again
    });
  }
  byId("clear").addEventListener("click", startAgain);
  byId("stop").addEventListener("click", () => {
    state.sending?.abort();
    byId("go-on").hidden = false;
    byId("go-on").focus();
  });
  byId("go-on").addEventListener("click", () => {
    complain("");
    send();
    byId("stop").focus();
  });
  byId("previous").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  byId("download").addEventListener("click", saveCsv);
  byId("download-one").addEventListener("click", saveCsv);
}

/** Files may be dropped anywhere on the page. */
function listenForDrops() {
  const holdsFiles = (event) => [...event.dataTransfer.types].includes("Files");
  addEventListener("dragover", (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    show("drop-here");
  });
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) show("drop-here", false);
  });
  addEventListener("drop", async (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    show("drop-here", false);
    try {
      await take(await filesOfDrop(event.dataTransfer));
    } catch (error) {
      complain(`What was dropped could not be read. ${error.message}`);
    }
  });
}

listen();
listenForDrops();
const started = start();
