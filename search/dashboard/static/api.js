// Calls to the API, with what shows that this page may change something, and its errors as sentences.

export class ApiError extends Error {
  constructor(status, sentence) {
    super(sentence);
    this.status = status;
  }
}

/** What the API answers, as JSON; null where the answer is empty. Throws ApiError. */
export async function call(path, asked) {
  const text = await (await answered(path, asked)).text();
  return text ? JSON.parse(text) : null;
}

/** The answer of the API, unread; who is not known any more is sent to log in. Throws ApiError. */
export async function answered(path, { method = "GET", body, headers = {}, signal } = {}) {
  const isFile = body instanceof Blob;
  const all = { Accept: "application/json", ...headers };
  if (method !== "GET") all["X-CSRF-Token"] = document.querySelector("meta[name=csrf]").content;
  if (body !== undefined && !isFile) all["Content-Type"] = "application/json";
  let answer;
  try {
    answer = await fetch(`/api/v1${path}`, {
      method, signal, headers: all, body: body === undefined || isFile ? body : JSON.stringify(body),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    const next = method === "GET" ? "this page tries again when something changes" : "try it again";
    throw new ApiError(0, `the service does not answer; ${next}`);
  }
  if (!answer.ok) {
    if (answer.status === 401 && path !== "/session") location.assign(`/login?next=${encodeURIComponent(location.pathname + location.search)}&over=1`);
    throw new ApiError(answer.status, sentenceOf(await answer.text()) ?? `the service answered with status ${answer.status}`);
  }
  return answer;
}

function sentenceOf(text) {
  try {
    return JSON.parse(text).detail;
  } catch {
    return undefined;
  }
}
