// What the server of `medlens ui` can be asked for. Paths are those of the server: below its root.

import { askForToken } from "./serve/token.js";
import { byId } from "./serve/dom.js";
import { count } from "./serve/words.js";
import { createAsk } from "./serve/ask.js";

// The token lasts as long as the tab, so that a reload does not ask for it.
const PLACE = "medlens-token";
// The server's own sentence is enough.
const SENTENCES = { 400: "", 403: "", 404: "", 409: "", 413: "", 422: "", 429: "", 503: "" };

/** Takes the token out of the address, where the page was opened with one; says whether it was. */
export function takeToken() {
  const told = location.hash.slice(1);
  if (told === "" || told.startsWith("/")) return false;
  sessionStorage.setItem(PLACE, told);
  history.replaceState(null, "", "#/");
  return true;
}

// What was said when the question for the token was closed without an answer.
let closed = null;

async function renewToken(wasRefused) {
  if (closed) throw closed; // what the page asks by itself does not open it again
  const given = await askForToken(wasRefused).catch((error) => {
    closed = error;
    throw error;
  });
  const token = given.includes("#") ? given.slice(given.indexOf("#") + 1) : given;
  sessionStorage.setItem(PLACE, token);
  return token;
}

function showBusy(seconds) {
  byId("busy").textContent = seconds > 0
    ? `The server is busy. Trying again in ${count(Math.ceil(seconds), "second")}.`
    : "";
}

/** Makes the client; the token must have been taken out of the address. */
export function createClient() {
  const token = sessionStorage.getItem(PLACE) ?? "";
  const ask = createAsk(renewToken, showBusy, { token, sentences: SENTENCES });

  const get = async (route, parameters, signal) => (
    (await ask(`api/${route}`, { parameters, signal })).json()
  );
  const askAgain = () => { closed = null; };
  const send = async (method, route, parameters, content = {}) => {
    askAgain();
    const headers = { "Content-Type": "application/json" };
    const body = JSON.stringify(content);
    return (await ask(`api/${route}`, { method, parameters, headers, body })).json();
  };

  return {
    /** To be told when the reader wants something, so that the token may be asked for again. */
    askAgain,
    about: () => get("about"),
    folders: (path, signal) => get("folders", { path }, signal),
    writePhantoms: () => send("POST", "phantom"),
    runs: (signal) => get("runs", {}, signal),
    createRun: (content) => send("POST", "runs", {}, content),
    run: (path, signal) => get("run", { path }, signal),
    rename: (path, name) => send("POST", "run/rename", { path }, { name }),
    remove: (path, name) => send("DELETE", "run", { path, confirm: name }),
    audit: (path, signal) => get("run/audit", { path }, signal),
    startAudit: (path) => send("POST", "run/audit", { path }),
    exclude: (path, content) => send("POST", "run/exclude", { path }, content),
    thumbnail: async (path, image, size, signal) => (
      (await ask("api/run/thumbnail", { parameters: { path, image, size }, signal })).blob()
    ),
    options: (signal) => get("options", {}, signal),
    setOptions: (path, values) => send("PATCH", "run/options", { path }, values),
    plan: (path, signal) => get("run/plan", { path }, signal),
    startPlan: (path) => send("POST", "run/plan", { path }),
    train: (path, resume) => send("POST", "run/train", { path }, { resume }),
    stop: (path) => send("POST", "run/stop", { path }),
    log: (path, signal) => get("run/log", { path }, signal),
    tryImages: (path) => send("POST", "run/try", { path }),
    exportTo: (path, format, int8) => send("POST", "run/export", { path }, { format, int8 }),
    /** A run or an export as a .zip; no link, since only who has the token may have them. */
    zip: async (name, path, parameters = {}) => {
      askAgain();
      return (await ask(`runs/${name}`, { parameters: { path, ...parameters } })).blob();
    },
    compare: (first, second, signal) => get("compare", { first, second }, signal),
  };
}

/** The address of a document of a run, for a link. */
export function fileAddress(name, run) {
  return `runs/${name}?${new URLSearchParams({ path: run })}`;
}
