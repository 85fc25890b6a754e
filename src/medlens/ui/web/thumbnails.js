// Small pictures of images; each is asked for once it comes into sight, a few at a time.

import { element } from "./serve/dom.js";
import { lastPart } from "./words.js";

const SIZE = 160;
const AT_ONCE = 3;

const waiting = [];
let busy = 0;

/** The picture of an image of a run, with its name; black until it is there. */
export function thumbnail({ client, run, path, signal }, image) {
  const isElsewhere = run.data === null; // where the page may not look
  const picture = isElsewhere ? element("p", { text: "No picture" })
    : element("img", { alt: "", width: SIZE, height: SIZE });
  const made = element("figure", { class: "thumbnail" },
    element("div", { class: "frame" }, picture),
    element("figcaption", { title: image, text: lastPart(image) }));
  if (isElsewhere) return made;
  const watch = new IntersectionObserver((entries) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    watch.disconnect();
    waiting.push(() => load(client, path, image, picture, signal));
    work();
  }, { rootMargin: "200px" });
  watch.observe(made);
  signal.addEventListener("abort", () => watch.disconnect(), { once: true });
  return made;
}

async function work() {
  while (busy < AT_ONCE && waiting.length > 0) {
    busy += 1;
    waiting.shift()().finally(() => {
      busy -= 1;
      work();
    });
  }
}

async function load(client, path, image, picture, signal) {
  if (signal.aborted) return;
  try {
    const address = URL.createObjectURL(await client.thumbnail(path, image, SIZE, signal));
    picture.addEventListener("load", () => URL.revokeObjectURL(address), { once: true });
    picture.src = address;
    picture.alt = `The image ${lastPart(image)}`;
  } catch (error) {
    if (signal.aborted) return;
    // Not announced: of many images, that would drown what the reader has just done.
    picture.parentElement.replaceChildren(element("p", { title: error.message }, "No picture",
      element("span", { class: "unseen", text: `: ${error.message}` })));
  }
}
