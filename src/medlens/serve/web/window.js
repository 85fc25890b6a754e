// The image as it is in its file; of DICOM also in another window. The answer does not depend on it.

import { byId, show } from "./dom.js";

// A hand that moves a slider is waited for so long, in milliseconds.
const PATIENCE = 80;

/**
 * The picture of the chosen image, and its sliders.
 *
 * @param {object} client From `createClient`.
 */
export function createWindow(client) {
  let shown = null; // item, model, signal, and what DICOM says of its window
  let address = "";
  let timer = 0;
  let latest = null;

  function open(item, model, signal) {
    shown = { item, model, signal, dicom: null };
    byId("picture").alt = `The image ${item.name}`;
    fetchPicture({});
  }

  function close() {
    clearTimeout(timer);
    shown = null;
    show("window", false);
    replacePicture("");
    byId("picture-wait").textContent = "";
  }

  /** Offers sliders where the file is DICOM in grey. */
  function offer(dicom) {
    if (!shown || !dicom || shown.dicom) return;
    shown.dicom = dicom;
    const { low, high, window_center: level, window_width: width } = dicom;
    const range = Math.max(high - low, width);
    // Whole steps where the values are whole and many.
    const step = range >= 100 ? 1 : range / 200;
    arrange("level", Math.min(low, level), Math.max(high, level), step, level);
    arrange("width", step, range, step, width);
    show("window");
  }

  function arrange(id, lowest, highest, step, value) {
    Object.assign(byId(id), { min: lowest, max: highest, step });
    byId(id).value = value;
    write(id);
  }

  function write(id) {
    byId(`${id}-value`).textContent = Number(Number(byId(id).value).toPrecision(6)).toString();
  }

  function move() {
    write("level");
    write("width");
    clearTimeout(timer);
    timer = setTimeout(() => fetchPicture({
      window_center: byId("level").value, window_width: byId("width").value,
    }), PATIENCE);
  }

  function reset() {
    const { dicom } = shown;
    byId("level").value = dicom.window_center;
    byId("width").value = dicom.window_width;
    write("level");
    write("width");
    clearTimeout(timer);
    fetchPicture({});
  }

  async function fetchPicture(window) {
    latest?.abort();
    latest = new AbortController();
    const signal = AbortSignal.any([shown.signal, latest.signal]);
    if (!address) byId("picture-wait").textContent = "Reading the image …";
    try {
      const picture = await client.picture(shown.model.name, shown.item.file, window, signal);
      if (signal.aborted) return;
      replacePicture(URL.createObjectURL(picture));
      byId("picture-wait").textContent = "";
    } catch (error) {
      if (signal.aborted) return;
      replacePicture("");
      byId("picture-wait").textContent = `It cannot be shown. ${error.message}`;
    }
  }

  function replacePicture(next) {
    if (address) URL.revokeObjectURL(address);
    address = next;
    if (next) byId("picture").src = next;
    else byId("picture").removeAttribute("src");
    show("picture", next !== "");
  }

  byId("level").addEventListener("input", move);
  byId("width").addEventListener("input", move);
  byId("reset-window").addEventListener("click", reset);

  return { open, close, offer };
}
