// The page: which of its pages is shown. The address says it all, so a reload comes back to the same.

import { byId, complain, element, show } from "./serve/dom.js";
import { createClient, takeToken } from "./client.js";
import { openCompare } from "./compare.js";
import { openFolders, openPhantoms } from "./folders.js";
import { openRun } from "./run.js";
import { openStart } from "./start.js";

const PAGES = {
  "/": { open: openStart, title: "Your runs" },
  "/data": { open: openFolders, title: "Choose a folder of images" },
  "/phantoms": { open: openPhantoms, title: "Phantoms" },
  "/run": { open: openRun, title: "A run" }, // until its name is there
  "/compare": { open: openCompare, title: "Which is better?" },
};

let shown = null; // stops what the page that is shown does by itself
let client = null;

/** Opens the page that the address names. */
async function open() {
  if (takeToken()) {
    location.reload(); // a new server gave a new token
    return;
  }
  const [path, query = ""] = location.hash.slice(1).split("?");
  const parameters = new URLSearchParams(query);
  const { open: openPage, title } = PAGES[path] ?? PAGES["/"];
  const key = openPage === openRun ? `${path}?${parameters.get("path")}` : location.hash;
  if (shown?.key === key) { // another step of the same run
    shown.change?.(parameters);
    return;
  }
  shown?.stop.abort();
  const stop = new AbortController();
  shown = { stop, key };
  complain("");
  document.title = `${title} · medlens`;
  document.body.dataset.page = path.slice(1) || "start";
  byId("view").replaceChildren(element("p", { class: "hint", text: "One moment …" }));
  try {
    const change = await openPage({ client, parameters, view: byId("view"), signal: stop.signal });
    if (shown.stop === stop) shown.change = change;
  } catch (error) {
    if (stop.signal.aborted) return;
    byId("view").replaceChildren();
    complain(error.message);
  }
}

async function start() {
  takeToken();
  client = createClient();
  try {
    const { root, version } = await client.about();
    byId("root").replaceChildren("Folder: ", element("b", { text: root }));
    byId("root").title = `medlens ${version} shows what lies below ${root}, and nothing else.`;
  } catch (error) {
    complain(error.message);
  }
  addEventListener("hashchange", () => {
    client.askAgain();
    open();
    byId("main").focus({ preventScroll: true });
    scrollTo(0, 0);
  });
  open();
}

byId("skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address is the page's own
  byId("main").focus();
});
show("away", false);
start();
