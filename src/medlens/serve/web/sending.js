// A batch of images -> answers, some images to a request, so that five hundred are no large upload.

import { ServerError } from "./ask.js";

const MOST_IMAGES = 8;
const MOST_BYTES = 16 * 2 ** 20;
// While the network works on one request, the next is on its way.
const LANES = 2;
// The server waited too long for the upload, or its answer took too long.
const TOO_SLOW = [408, 504];
const FAILED = "The server failed over some images. Go on sends them again.";

/**
 * Sends every item that has no answer yet.
 *
 * @param {object} client From `createClient`.
 * @param {string} model
 * @param {object[]} items Each with `file` and `answer`, which is set here.
 * @param {AbortSignal} signal
 * @param {function(object[])} onAnswered Is given the items of each request that was answered.
 * @throws {ServerError} If the server fails, over all or some, or cannot be reached; what was
 *   answered stays so, and the others have no answer.
 */
export async function sendAll(client, model, items, signal, onAnswered) {
  const waiting = items.filter((item) => !item.answer);
  const queue = { items: waiting, most: MOST_IMAGES, failed: 0, lanes: LANES, isSlow: false };

  async function drain() {
    try {
      // On a line that is too slow for one request, two at a time are slower still.
      while (queue.items.length > 0 && !signal.aborted && !(queue.isSlow && queue.lanes > 1)) {
        const answered = await sendSome(client, model, takeSome(queue), signal, queue);
        if (answered.length > 0 && !signal.aborted) onAnswered(answered);
      }
    } finally {
      queue.lanes -= 1;
    }
  }

  const ended = await Promise.allSettled(Array.from({ length: LANES }, drain));
  const failed = ended.find((lane) => lane.status === "rejected");
  if (failed && !signal.aborted) throw failed.reason;
  if (queue.failed > 0 && !signal.aborted) throw new ServerError(500, FAILED);
}

/** The next items that one request may hold, one at least. */
function takeSome(queue) {
  let [number, bytes] = [0, 0];
  for (const { file } of queue.items.slice(0, queue.most)) {
    bytes += file.size;
    if (number > 0 && bytes > MOST_BYTES) break;
    number += 1;
  }
  return queue.items.splice(0, number);
}

async function sendSome(client, model, some, signal, queue) {
  const isAlone = queue.lanes === 1;
  try {
    const answers = await client.predict(model, some.map((item) => item.file), signal);
    // What the server failed over has no answer: the file may be as good as the others.
    const answered = some.filter((_, place) => !answers[place].failed);
    queue.failed += some.length - answered.length;
    some.forEach((item, place) => { if (!answers[place].failed) item.answer = answers[place]; });
    return answered;
  } catch (error) {
    if (signal.aborted || !(error instanceof ServerError)) throw error;
    if (error.status === 413) return divide(some, error, queue);
    if (error.status === 0) return setAsideGone(some, error, queue, isAlone);
    if (TOO_SLOW.includes(error.status)) return sendFewer(some, error, queue, isAlone);
    throw error;
  }
}

/** What is too large together may pass apart; what is too large alone is refused. */
function divide(some, error, queue) {
  if (some.length === 1) {
    some[0].answer = { unreadable: error.message };
    return some;
  }
  queue.most = Math.ceil(some.length / 2);
  queue.items.unshift(...some);
  return [];
}

/** What takes too long together may pass apart, and one image without the other lane beside it. */
function sendFewer(some, error, queue, isAlone) {
  if (some.length === 1 && (isAlone || error.status === 504)) throw error;
  queue.isSlow = true;
  queue.most = Math.ceil(some.length / 2);
  queue.items.unshift(...some);
  return [];
}

/** A file that was moved or changed after it was chosen stops its whole request: find it. */
async function setAsideGone(some, error, queue, isAlone) {
  const readable = await Promise.all(some.map(({ file }) => (
    file.slice(0, 1).arrayBuffer().then(() => true, () => false)
  )));
  const gone = some.filter((_, place) => !readable[place]);
  // The server may also have hung up in the middle of an upload that took too long.
  if (gone.length === 0) return sendFewer(some, error, queue, isAlone);
  for (const item of gone) {
    item.answer = { unreadable: "The browser can no longer read this file: it was moved or changed." };
  }
  queue.items.unshift(...some.filter((_, place) => readable[place]));
  return gone;
}
