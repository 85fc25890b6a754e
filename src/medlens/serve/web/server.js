// What the server of classifiers can be asked for.

import { createAsk, ServerError } from "./ask.js";

/**
 * A client that holds the token in memory alone.
 *
 * @param {function(boolean): Promise<string>} askForToken Is told whether one was refused before.
 * @param {function(number)} onBusy Is told for how many seconds it waits; 0 when that is over.
 */
export function createClient(askForToken, onBusy) {
  const ask = createAsk(askForToken, onBusy);

  return {
    models: async () => (await ask("models")).json(),
    /** The answers to several files, in their order. */
    predict: async (model, files, signal) => {
      const body = new FormData();
      for (const file of files) body.append("images", file, file.name);
      const response = await ask("predict", { parameters: { model }, body, signal, allowed: [422] });
      const answer = await response.json();
      if (answer.results?.length !== files.length) {
        throw new ServerError(response.status, "The server's answer does not fit the images sent.");
      }
      return answer.results;
    },
    explain: async (model, file, className, signal) => {
      const parameters = className ? { model, class: className } : { model };
      return (await ask("explain", { parameters, body: formOf(file), signal })).json();
    },
    picture: async (model, file, window, signal) => {
      const parameters = { model, ...window };
      return (await ask("picture", { parameters, body: formOf(file), signal })).blob();
    },
  };
}

function formOf(file) {
  const body = new FormData();
  body.append("image", file, file.name);
  return body;
}
