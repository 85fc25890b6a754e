// The token of a server that asks for one: as the address brings it after its #, or as it is typed;
// that is kept in memory alone, the other as long as the tab, since nobody could type it again.

import { byId } from "./dom.js";
import { ServerError } from "./ask.js";

// By the page, since several pages may come from one server.
const PLACE = `medlens-token ${location.pathname}`;

/**
 * Asks for the token.
 *
 * @param {boolean} wasRefused Whether one was given and not accepted.
 * @throws {ServerError} If the question is closed without an answer.
 */
export function askForToken(wasRefused) {
  const brought = location.hash.slice(1);
  // Else it is a place on the page, as the link that skips to the images leaves it there.
  const isToken = brought !== "" && !brought.startsWith("/") && !byId(brought);
  if (wasRefused) sessionStorage.removeItem(PLACE);
  if (isToken) { // neither the history nor a bookmark shall hold it
    history.replaceState(null, "", location.pathname + location.search);
    sessionStorage.setItem(PLACE, brought);
  }
  const known = isToken ? brought : sessionStorage.getItem(PLACE);
  if (known && !wasRefused) return Promise.resolve(known);
  const dialog = byId("token-dialog");
  const input = byId("token");
  input.value = "";
  byId("token-refused").textContent = wasRefused ? "The server did not accept that token." : "";
  dialog.returnValue = ""; // Escape leaves it as it is
  dialog.showModal();
  return new Promise((resolve, reject) => {
    dialog.addEventListener("close", () => {
      const token = input.value.trim();
      input.value = "";
      if (dialog.returnValue === "given" && token) resolve(token);
      else reject(new ServerError(401, "The server wants a token. Reload the page to give it."));
    }, { once: true });
  });
}
