// Requests to the server this page came from; no other is ever asked.

const LONGEST_WAIT = 30;
// A queue empties. A process that ends over an image ends over it again.
const MOST_TRIES = { 429: 40, 503: 3 };
const SENTENCES = {
  401: "The server did not accept the token.",
  403: "The server does not allow this.",
  404: "The server no longer has this. Reload the page.",
  408: "The server waited too long for the image.",
  413: "Too large for this server.",
  422: "",
  429: "The server is busy and stayed so. Go on later.",
  503: "The server cannot answer now. Go on later.",
  504: "The server took too long.",
};

/** What the server refused, with its status; 0 where no answer came. */
export class ServerError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/**
 * Makes the function that asks the server; it waits politely while the server is busy.
 *
 * @param {function(boolean): Promise<string>} askForToken Is told whether one was refused before.
 * @param {function(number)} onBusy Is told for how many seconds it waits; 0 when that is over.
 * @param {{token?: string, sentences?: object}} own The token, where it is known already, and what
 *   this page says of a status before the server's own words.
 */
export function createAsk(askForToken, onBusy, { token: known = "", sentences = SENTENCES } = {}) {
  let token = known;
  let asking = null;

  async function renewToken(refused) {
    if (token !== refused) return; // renewed meanwhile by another request
    asking ??= askForToken(refused !== "").finally(() => { asking = null; });
    token = await asking;
  }

  /** The answer is a Response that went well, or of one of the `allowed` statuses. */
  return async function ask(path, options = {}) {
    const { parameters = {}, body, signal, allowed = [] } = options;
    const { method = body ? "POST" : "GET", headers = {} } = options;
    const address = new URL(path, document.baseURI);
    for (const [name, value] of Object.entries(parameters)) address.searchParams.set(name, value);
    for (let tries = 1; ; tries += 1) {
      const sent = token;
      const all = sent ? { ...headers, Authorization: `Bearer ${sent}` } : headers;
      const request = { method, body, headers: all, signal, redirect: "error" };
      const response = await fetch(address, request).catch((error) => {
        if (signal?.aborted) throw error;
        throw new ServerError(0, "The server does not answer.");
      });
      if (response.ok || allowed.includes(response.status)) return response;
      if (response.status === 401) {
        await renewToken(sent);
      } else if (tries < (MOST_TRIES[response.status] ?? 0)) {
        await waitAsTold(response, signal, onBusy);
      } else {
        throw new ServerError(response.status, await reasonOf(response, sentences));
      }
    }
  };
}

async function waitAsTold(response, signal, onBusy) {
  const told = Number(response.headers.get("Retry-After"));
  // A little more, by chance, so that several pages do not come back at the same moment.
  const seconds = Math.min(Math.max(told || 1, 0.5), LONGEST_WAIT) * (1 + Math.random() / 4);
  onBusy(seconds);
  try {
    await new Promise((resolve, reject) => {
      const timer = setTimeout(resolve, seconds * 1000);
      signal?.addEventListener("abort", () => {
        clearTimeout(timer);
        reject(new DOMException("stopped", "AbortError"));
      }, { once: true });
    });
  } finally {
    onBusy(0);
  }
}

async function reasonOf(response, sentences) {
  const own = sentences[response.status] ?? `The server failed (status ${response.status}).`;
  const content = await response.json().catch(() => null);
  const said = content?.detail;
  return typeof said === "string" ? `${own} ${said}`.trim() : own;
}
