// A batch of images -> answers, some images to a request, so that five hundred are no large upload.

import { ServerError } from "./server.js";

const MOST_IMAGES = 8;
const MOST_BYTES = 16 * 2 ** 20;
// While the network works on one request, the next is on its way.
const LANES = 2;

/**
 * Sends every item that has no answer yet.
 *
 * @param {object} client From `createClient`.
 * @param {string} model
 * @param {object[]} items Each with `file` and `answer`, which is set here.
 * @param {AbortSignal} signal
 * @param {function(object[])} onAnswered Is given the items of each request that was answered.
 * @throws {ServerError} If the server fails or cannot be reached; what was answered stays so.
 */
export async function sendAll(client, model, items, signal, onAnswered) {
  const waiting = chunksOf(items.filter((item) => !item.answer));

  async function drain() {
    while (waiting.length > 0 && !signal.aborted) {
      const chunk = waiting.shift();
      const answered = await sendChunk(client, model, chunk, signal, waiting);
      if (answered.length > 0 && !signal.aborted) onAnswered(answered);
    }
  }

  const ended = await Promise.allSettled(Array.from({ length: LANES }, drain));
  const failed = ended.find((lane) => lane.status === "rejected");
  if (failed && !signal.aborted) throw failed.reason;
}

/** Items in groups that one request may hold. */
function chunksOf(items) {
  const chunks = [];
  let bytes = Infinity;
  for (const item of items) {
    if (bytes + item.file.size > MOST_BYTES || chunks.at(-1).length === MOST_IMAGES) {
      chunks.push([]);
      bytes = 0;
    }
    chunks.at(-1).push(item);
    bytes += item.file.size;
  }
  return chunks;
}

async function sendChunk(client, model, chunk, signal, waiting) {
  try {
    const answers = await client.predict(model, chunk.map((item) => item.file), signal);
    chunk.forEach((item, place) => { item.answer = answers[place]; });
    return chunk;
  } catch (error) {
    if (signal.aborted || !(error instanceof ServerError)) throw error;
    if (error.status === 413) return divide(chunk, error, waiting);
    if (error.status === 0) return setAsideGone(chunk, error, waiting);
    throw error;
  }
}

/** What is too large together may pass apart; what is too large alone is refused. */
function divide(chunk, error, waiting) {
  if (chunk.length === 1) {
    chunk[0].answer = { unreadable: error.message };
    return chunk;
  }
  const half = Math.ceil(chunk.length / 2);
  waiting.unshift(chunk.slice(0, half), chunk.slice(half));
  return [];
}

/** A file that was moved or changed after it was chosen stops its whole request: find it. */
async function setAsideGone(chunk, error, waiting) {
  const readable = await Promise.all(chunk.map(({ file }) => (
    file.slice(0, 1).arrayBuffer().then(() => true, () => false)
  )));
  const gone = chunk.filter((_, place) => !readable[place]);
  if (gone.length === 0) throw error;
  for (const item of gone) {
    item.answer = { unreadable: "The browser can no longer read this file: it was moved or changed." };
  }
  const left = chunk.filter((_, place) => readable[place]);
  if (left.length > 0) waiting.unshift(left);
  return gone;
}
