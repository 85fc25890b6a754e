// The chosen image: what it looks like, what is said of it, and why.

import { byId, element, show } from "./dom.js";
import { showAnswer } from "./answer.js";
import { createWindow } from "./window.js";

/**
 * The part of the page about one image.
 *
 * @param {object} client From `createClient`.
 */
export function createDetail(client) {
  let shown = null; // the item, its model, and what stops its requests
  const view = createWindow(client);

  function open(item, model) {
    close();
    shown = { item, model, stop: new AbortController() };
    byId("chosen-name").textContent = item.name;
    showAnswer(item, model);
    const isRead = Boolean(item.answer) && !item.answer.unreadable;
    for (const part of ["picture-part", "answer-part", "heat-part"]) show(part, isRead);
    show("similar-part", false);
    if (!isRead) return;
    listClasses(model, item.answer.predicted);
    view.open(item, model, shown.stop.signal);
    explain();
  }

  function close() {
    shown?.stop.abort();
    shown = null;
    view.close();
    hideHeat("");
  }

  async function explain() {
    const current = shown;
    const { item, model, stop } = current;
    hideHeat("Working out the heat map …");
    current.heat?.abort();
    current.heat = new AbortController();
    const signal = AbortSignal.any([stop.signal, current.heat.signal]);
    const wanted = byId("heat-class").value || item.answer.predicted;
    try {
      const found = await client.explain(model.name, item.file, wanted, signal);
      showHeat(item, found);
      if (model.has_similar) showSimilar(found.similar);
      view.offer(found.dicom);
    } catch (error) {
      if (!signal.aborted) hideHeat(`There is no heat map. ${error.message}`);
    }
  }

  function fade() {
    const percent = byId("opacity").value;
    byId("overlay").style.opacity = percent / 100;
    byId("opacity-value").textContent = `${percent} %`;
  }

  byId("heat-class").addEventListener("change", () => { if (shown) explain(); });
  byId("opacity").addEventListener("input", fade);
  fade();

  return { open, close, item: () => shown?.item };
}

/** Lists the classes once per classifier; a class that was picked stays picked. */
function listClasses(model, predicted) {
  const list = byId("heat-class");
  const first = `${predicted} (predicted)`;
  if (list.dataset.model !== model.name) {
    list.dataset.model = model.name;
    list.replaceChildren(
      element("option", { value: "" }),
      ...model.classes.map((name) => element("option", { value: name, text: name })),
    );
  }
  list.options[0].textContent = first;
}

function hideHeat(text) {
  show("seen", false);
  show("overlay", false);
  byId("seen").removeAttribute("src");
  byId("overlay").removeAttribute("src");
  byId("heat-wait").textContent = text;
}

function showHeat(item, found) {
  byId("heat-wait").textContent = "";
  byId("seen").src = found.picture;
  byId("seen").alt = `What the network saw of ${item.name}, under the heat map for ${found.class}`;
  byId("overlay").src = found.overlay;
  show("seen");
  show("overlay");
}

function showSimilar(cases) {
  byId("similar").replaceChildren(...cases.map((one) => {
    const place = `row ${one.row}, distance ${one.distance.toPrecision(3)}`;
    const words = element("span", {}, element("b", {}, one.label), ` ${place}`);
    if (!one.image) return element("li", {}, words);
    const picture = element("img", { src: one.image, alt: `Training image of ${one.label}` });
    return element("li", {}, picture, words);
  }));
  show("similar-part", cases.length > 0);
}
