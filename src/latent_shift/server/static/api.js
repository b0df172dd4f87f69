// The server's API, as the page uses it. A key is asked for when the server wants one.

const KEY = "latent-shift-key";
let asking = null;

export class ApiError extends Error {
  constructor(status, error) {
    super(error?.message ?? `the server answered ${status}`);
    this.status = status;
    this.code = error?.code;
    this.param = error?.param;
  }
}

function askForKey() {
  asking ??= new Promise((resolve) => {
    const dialog = document.getElementById("key-dialog");
    const input = document.getElementById("key");
    input.value = "";
    dialog.addEventListener("close", () => {
      asking = null;
      sessionStorage.setItem(KEY, input.value.trim());
      resolve();
    }, { once: true });
    dialog.showModal();
  });
  return asking;
}

async function call(path, options = {}) {
  const key = sessionStorage.getItem(KEY);
  const headers = { ...options.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  const answer = await fetch(path, { ...options, headers });
  if (answer.status === 401) {
    if (sessionStorage.getItem(KEY) === key) await askForKey();
    return call(path, options);
  }
  if (!answer.ok) {
    const body = await answer.json().catch(() => ({}));
    throw new ApiError(answer.status, body.error);
  }
  return answer;
}

// JSON with seeds as texts: one may exceed what a number of JavaScript holds.
const parsed = (text) => JSON.parse(text.replace(/"seed":\s*(\d+)/g, '"seed":"$1"'));
const json = async (answer) => parsed(await (await answer).text());

export const models = async () => (await json(call("v1/models"))).data;
export const retrieve = (id) => json(call(`v1/videos/${id}`));
export const cancel = (id) => json(call(`v1/videos/${id}/cancel`, { method: "POST" }));
export const remove = (id) => json(call(`v1/videos/${id}`, { method: "DELETE" }));

export function list({ limit, after }) {
  return json(call(`v1/videos?${new URLSearchParams({ limit, ...(after ? { after } : {}) })}`));
}

export function create(fields) {
  const { seed, ...others } = fields;
  const body = JSON.stringify(others).replace(/}$/, `,"seed":${BigInt(seed)}}`);
  return json(call("v1/videos", { method: "POST", headers: { "Content-Type": "application/json" }, body }));
}

export async function inspect(file) {
  const form = new FormData();
  form.append("file", file);
  return (await json(call("v1/videos/inspect", { method: "POST", body: form }))).settings;
}

export async function content(id, query = {}) {
  const answer = await call(`v1/videos/${id}/content?${new URLSearchParams(query)}`);
  const name = /filename="([^"]+)"/.exec(answer.headers.get("content-disposition") ?? "")?.[1];
  const encoded = /filename\*=utf-8''([^;]+)/.exec(answer.headers.get("content-disposition") ?? "")?.[1];
  return { blob: await answer.blob(), name: name ?? (encoded ? decodeURIComponent(encoded) : id) };
}

// Events of a video until it is finished, or the signal aborts: on(name, data).
export async function follow(id, signal, on) {
  const answer = await call(`v1/videos/${id}/events`, { signal });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    text += value;
    const parts = text.split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const name = /^event: (.*)$/m.exec(part)?.[1];
      const data = /^data: (.*)$/m.exec(part)?.[1];
      if (name && data) on(name, parsed(data));
    }
  }
}
