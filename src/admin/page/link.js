// The way to weir: the token, requests, and the stream of what happens. It keeps what was heard last and says how old it is.

const KEY = "weir-token";
let token = sessionStorage.getItem(KEY) ?? "";

export function useToken(text) {
  token = text;
  if (text) sessionStorage.setItem(KEY, text);
  else sessionStorage.removeItem(KEY);
}

function fields(more) {
  return token ? { ...more, authorization: `Bearer ${token}` } : { ...more };
}

// What the token lets one do: `operate`, `read`, or null where one is asked for.
export const session = () => ask("/page/session");

export async function ask(path, signal) {
  return said(await fetch(path, { headers: fields(), cache: "no-store", signal }));
}

export async function tell(path, body) {
  const headers = fields({ "content-type": "application/json" });
  return said(await fetch(path, { method: "POST", headers, body: JSON.stringify(body), cache: "no-store" }));
}

async function said(response) {
  const text = await response.text();
  let form = {};
  try {
    form = JSON.parse(text);
  } catch {
    form = { error: text.slice(0, 200) };
  }
  if (!response.ok) throw Object.assign(new Error(form.error || `weir answers ${response.status}`), { status: response.status });
  return form;
}

// Listens for ever. `on` hears each event by its kind, and `lost` with the reason whenever the stream breaks.
export function listen(query, on) {
  const quit = new AbortController();
  (async () => {
    let since = null;
    for (let tries = 0; !quit.signal.aborted; tries += 1) {
      try {
        const path = `/api/v1/stream?${query}${since === null ? "" : `&since=${since}`}`;
        await hear(path, since, quit.signal, (kind, id, data) => {
          tries = 0;
          if (id !== null) since = id;
          // Without an entry of its own it goes on from where it began.
          if (kind === "hello" && since === null) since = data.newest;
          on(kind, data);
        });
        on("lost", { error: "weir closed the stream", status: 0 });
      } catch (error) {
        if (quit.signal.aborted) return;
        on("lost", { error: error.message, status: error.status ?? 0 });
        if (error.status === 401) return;
      }
      await new Promise((then) => setTimeout(then, Math.min(250 * 2 ** tries, 4000)));
    }
  })();
  return () => quit.abort();
}

async function hear(path, since, signal, on) {
  const silence = new AbortController();
  let watch = 0;
  const alive = () => {
    clearTimeout(watch);
    watch = setTimeout(() => silence.abort(new Error("nothing is heard of weir")), SILENCE_MS);
  };
  alive();
  try {
    const headers = fields(since === null ? {} : { "last-event-id": String(since) });
    const response = await fetch(path, { headers, cache: "no-store", signal: AbortSignal.any([signal, silence.signal]) });
    if (!response.ok) return await said(response);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      alive();
      on("beat", null, null);
      const blocks = (rest + value).split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        let kind = null;
        let id = null;
        let data = "";
        for (const line of block.split("\n")) {
          if (line.startsWith("event: ")) kind = line.slice(7);
          else if (line.startsWith("id: ")) id = Number(line.slice(4));
          else if (line.startsWith("data: ")) data += line.slice(6);
        }
        if (kind) on(kind, id, JSON.parse(data));
      }
    }
  } finally {
    clearTimeout(watch);
  }
}

// weir gives a sign of life every five seconds.
const SILENCE_MS = 12000;
