"""Worker projects as developers have them."""

import json
from pathlib import Path

ADD_WASM = bytes.fromhex("0061736d0100000001070160027f7f017f03020100070701036164640000" + "0a09010700200020016a0b")
GREETING = "good morning, café"

EVERYTHING_TS = """
import text from "./greeting.txt";
import add from "./add.wasm";
import { label } from "./label";

interface Env {
  ASSETS: { fetch(request: Request): Promise<Response> };
  NAME: string;
  LIMITS: { most: number; tags: string[] };
  META: { id: string; tag: string; timestamp: string };
  PASSWORD?: string;
  [name: string]: unknown;
}

let released = false;
let served = 0;

export default {
  async fetch(request: Request, env: Env): Promise<Response> {
    served += 1;
    const url = new URL(request.url);
    const cf = (request as Request & { cf?: Record<string, string> }).cf ?? {};
    switch (url.pathname) {
      case "/api/label":
        return new Response(label);
      case "/api/all": {
        const wasm = await WebAssembly.instantiate(add, {});
        const sum = (wasm.exports.add as (a: number, b: number) => number)(40, 2);
        const { ASSETS, META, ...values } = env;
        return Response.json({ label, text, sum, meta: META, values, colo: cf.colo, city: cf.city, country: cf.country });
      }
      case "/api/request":
        return Response.json({ method: request.method, url: request.url, headers: Object.fromEntries(request.headers), cf });
      case "/api/asset":
        return env.ASSETS.fetch(new Request("http://assets/about"));
      case "/api/served":
        return new Response(String(served));
      case "/api/release":
        released = true;
        return new Response("released");
      case "/api/events":
        return events();
      case "/api/upload":
        return Response.json(await digest(request.body!));
      case "/api/download":
        return download(Number(url.searchParams.get("bytes")));
      case "/ws":
        return socket();
    }
    return new Response(`the worker has nothing at ${url.pathname}`, { status: 418 });
  },
};

/** One event now, the next when somebody asks for /api/release. */
function events(): Response {
  released = false;
  const encoder = new TextEncoder();
  const body = new ReadableStream({
    async start(controller) {
      controller.enqueue(encoder.encode("data: first\\n\\n"));
      while (!released) await new Promise((done) => setTimeout(done, 20));
      controller.enqueue(encoder.encode("data: second\\n\\n"));
      controller.close();
    },
  });
  return new Response(body, { headers: { "content-type": "text/event-stream" } });
}

async function digest(body: ReadableStream): Promise<{ bytes: number; sha256: string }> {
  const stream = new crypto.DigestStream("SHA-256");
  await body.pipeTo(stream);
  const hex = Array.from(new Uint8Array(await stream.digest), (byte) => byte.toString(16).padStart(2, "0")).join("");
  return { bytes: Number(stream.bytesWritten), sha256: hex };
}

/** Blocks of 64 KiB, each of one letter. */
function download(bytes: number): Response {
  let left = bytes, block = 0;
  const body = new ReadableStream({
    pull(controller) {
      const size = Math.min(left, 65536);
      if (size > 0) controller.enqueue(new Uint8Array(size).fill(97 + (block++ % 26)));
      left -= size;
      if (left === 0) controller.close();
    },
  });
  return new Response(body, { headers: { "content-type": "application/octet-stream" } });
}

function socket(): Response {
  const { 0: client, 1: server } = new WebSocketPair();
  server.accept();
  server.addEventListener("message", (event: MessageEvent) => server.send(`${label}: ${event.data}`));
  server.send("hello");
  return new Response(null, { status: 101, webSocket: client });
}
"""

HEADERS = "/*\n  x-from-headers-file: yes\n/private/*\n  x-robots-tag: noindex\n"
REDIRECTS = "/old /about 301\n/blog/:slug /posts/:slug 302\n"


def write_project(directory: Path, name: str, code: str, **config: object) -> Path:
    """TypeScript and a wrangler.json; `config` is merged into the latter."""
    (directory / "src").mkdir(parents=True, exist_ok=True)
    (directory / "src/index.ts").write_text(code)
    settings = {"name": name, "main": "src/index.ts", "compatibility_date": "2026-11-01", **config}
    (directory / "wrangler.json").write_text(json.dumps(settings))
    return directory


def write_everything(directory: Path, name: str, *, label: str) -> Path:
    """All that this platform has for a Worker: assets with their rules, vars, JSON, text, Wasm, version metadata.

    `label` is what its code answers at /api/label. It may be written again with another one.
    """
    write_project(
        directory,
        name,
        EVERYTHING_TS,
        assets={
            "directory": "public",
            "binding": "ASSETS",
            "html_handling": "auto-trailing-slash",
            "not_found_handling": "404-page",
            "run_worker_first": ["/api/*", "!/api/static/*", "/ws"],
        },
        vars={"NAME": "edge", "LIMITS": {"most": 3, "tags": ["a", "b"]}},
        version_metadata={"binding": "META"},
    )
    write_label(directory, label)
    (directory / "src/greeting.txt").write_text(GREETING)
    (directory / "src/add.wasm").write_bytes(ADD_WASM)
    public = {
        "index.html": "<h1>home</h1>",
        "about.html": "<h1>about</h1>",
        "docs/index.html": "<h1>docs</h1>",
        "404.html": "<h1>lost</h1>",
        "api/static/data.json": '{"static": true}',
        "private/notes.txt": "notes",
        "_headers": HEADERS,
        "_redirects": REDIRECTS,
    }
    for path, content in public.items():
        write_asset(directory, path, content)
    return directory


def write_label(directory: Path, label: str) -> None:
    (directory / "src/label.ts").write_text(f"export const label = {json.dumps(label)};\n")


def write_asset(directory: Path, path: str, content: str) -> None:
    place = directory / "public" / path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(content)


CALLER_TS = """
import { connect } from "cloudflare:sockets";

/** POST {urls, sockets}: what comes back from each. */
export default {
  async fetch(request: Request): Promise<Response> {
    const { urls, sockets } = (await request.json()) as { urls: string[]; sockets: string[] };
    const found: Record<string, string> = {};
    for (const url of urls) found[url] = await attempt(() => ask(url));
    for (const address of sockets) found[address] = await attempt(() => greet(address));
    return Response.json(found);
  },
};

async function attempt(work: () => Promise<string>): Promise<string> {
  try {
    return await work();
  } catch (error) {
    return `refused: ${error}`;
  }
}

async function ask(url: string): Promise<string> {
  const answer = await fetch(url, { redirect: "manual" });
  return `${answer.status} ${await answer.text()}`;
}

async function greet(address: string): Promise<string> {
  const socket = connect(address);
  await socket.opened;
  const { value } = await socket.readable.getReader().read();
  return `opened, ${value?.length ?? 0} bytes`;
}
"""
