// Asking again and again, so that two tabs, a terminal and this page show the same.

import { byId, show } from "./serve/dom.js";

const SOON = 1000;
const LATER = 3000;

/**
 * Asks now and again until the signal ends it.
 *
 * @param {function(AbortSignal): Promise} ask
 * @param {function(object): boolean} take Gets each answer; says whether something is under way.
 * @param {AbortSignal} signal
 * @returns {Promise<function()>} Asks at once, once the first answer is there.
 * @throws {ServerError} If the first answer is a refusal.
 */
export async function keepAsking(ask, take, signal) {
  let timer = 0;
  let number = 0;

  async function turn() {
    clearTimeout(timer);
    number += 1;
    const own = number; // an older answer must not overtake a newer one
    let wait = LATER;
    try {
      const answer = await ask(signal);
      if (signal.aborted || own !== number) return;
      show("away", false);
      wait = take(answer) ? SOON : LATER;
    } catch (error) {
      if (signal.aborted || own !== number) return;
      sayAway(error);
    }
    timer = setTimeout(turn, wait);
  }

  const busy = take(await ask(signal));
  timer = setTimeout(turn, busy ? SOON : LATER);
  signal.addEventListener("abort", () => clearTimeout(timer), { once: true });
  return turn;
}

function sayAway(error) {
  byId("away").textContent = error.status === 0
    ? "medlens does not answer any more. What is being trained goes on by itself. "
      + "Start medlens ui again; this page then asks for the new token."
    : error.message;
  show("away");
}
