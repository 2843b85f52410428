// Calls to the server, with the API key if there is one. The key is in this tab's session only, and goes to this server only.

const KEPT_AS = "penstock-api-key";

let key = kept();

function kept() {
  try {
    return sessionStorage.getItem(KEPT_AS) ?? "";
  } catch {
    return ""; // a browser that keeps nothing: the key is in memory
  }
}

export const hasKey = () => key !== "";

export function useKey(text) {
  key = text;
  try {
    if (key) sessionStorage.setItem(KEPT_AS, key);
    else sessionStorage.removeItem(KEPT_AS);
  } catch {
    // it is in memory
  }
}

// The server answered with an error; `status` is HTTP's, `code` our name of the error.
export class Refused extends Error {
  constructor(message, { status, headers }) {
    super(message);
    this.status = status;
    this.code = headers.get("Penstock-Error") ?? "";
    this.requestId = headers.get("Penstock-Request-Id") ?? "";
    this.timing = headers.get("Penstock-Timing");
  }
}

// There was no answer.
export class Away extends Error {}

// The absolute URL of a path such as `v2/models`.
export const urlOf = (path) => new URL(path, document.baseURI.split(/[?#]/)[0]).href;

export async function call(path, { method = "GET", body, headers = {}, signal } = {}) {
  const sent = { ...headers };
  if (key) sent.Authorization = `Bearer ${key}`;
  let response;
  try {
    response = await fetch(urlOf(path), { method, body, headers: sent, signal, cache: "no-store", redirect: "error" });
  } catch (error) {
    if (signal?.aborted && signal.reason?.name !== "TimeoutError") throw error;
    throw new Away("no answer");
  }
  if (response.ok) return response;
  throw new Refused(await reason(response), response);
}

async function reason(response) {
  try {
    const said = JSON.parse(await response.text());
    if (typeof said.error === "string") return said.error;
  } catch {
    // a proxy's page: its status says enough
  }
  return `the server answered with status ${response.status}`;
}

export async function getJson(path, within = 10_000) {
  const response = await call(path, { signal: AbortSignal.timeout(within) });
  try {
    return await response.json();
  } catch {
    throw new Away("half an answer");
  }
}
