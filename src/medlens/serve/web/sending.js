// A batch of images -> answers, some images to a request, so that five hundred are no large upload.

import { ServerError } from "./ask.js";

const MOST_IMAGES = 8;
const MOST_BYTES = 16 * 2 ** 20;
// While the network works on one request, the next is on its way.
const LANES = 2;
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
  const queue = { items: items.filter((item) => !item.answer), most: MOST_IMAGES, failed: 0 };

  async function drain() {
    while (queue.items.length > 0 && !signal.aborted) {
      const answered = await sendSome(client, model, takeSome(queue), signal, queue);
      if (answered.length > 0 && !signal.aborted) onAnswered(answered);
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
    if (error.status === 0) return setAsideGone(some, error, queue);
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

/** A file that was moved or changed after it was chosen stops its whole request: find it. */
async function setAsideGone(some, error, queue) {
  const readable = await Promise.all(some.map(({ file }) => (
    file.slice(0, 1).arrayBuffer().then(() => true, () => false)
  )));
  const gone = some.filter((_, place) => !readable[place]);
  if (gone.length === 0) throw error;
  for (const item of gone) {
    item.answer = { unreadable: "The browser can no longer read this file: it was moved or changed." };
  }
  queue.items.unshift(...some.filter((_, place) => readable[place]));
  return gone;
}
