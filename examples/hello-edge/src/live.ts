import type { Env } from "./env";
import { Refusal } from "./respond";

declare const WebSocketPair: new () => { 0: WebSocket; 1: WebSocket & { accept(): void } };
declare const scheduler: { wait(ms: number): Promise<void> };

/** `/ws`: says back what it hears, until one side closes. */
export function echoSocket(request: Request, greeting: string): Response {
  if (request.headers.get("upgrade")?.toLowerCase() !== "websocket") {
    throw new Refusal(426, "this is a WebSocket: connect with ws://");
  }
  const { 0: client, 1: server } = new WebSocketPair();
  server.accept();
  server.addEventListener("message", (event) => server.send(event.data));
  server.addEventListener("close", (event) => server.close(event.code === 1005 ? 1000 : event.code, event.reason));
  server.send(greeting);
  return new Response(null, { status: 101, webSocket: client } as ResponseInit);
}

/** `GET /api/stream?chunks=10&every=100`: one line every so many ms, sent as it is made. */
export function stream(url: URL, env: Env): Response {
  const chunks = numberOf(url, "chunks", 10, env.LIMITS.stream_chunks_max);
  const everyMs = numberOf(url, "every", 100, 1000);
  const encoder = new TextEncoder();
  let sent = 0;
  const body = new ReadableStream<Uint8Array>({
    async pull(controller) {
      if (sent > 0) {
        await scheduler.wait(everyMs);
      }
      sent += 1;
      controller.enqueue(encoder.encode(`${sent} of ${chunks}\n`));
      if (sent >= chunks) {
        controller.close();
      }
    },
  });
  return new Response(body, { headers: { "content-type": "text/plain; charset=utf-8", "cache-control": "no-store" } });
}

function numberOf(url: URL, name: string, usual: number, max: number): number {
  const value = Number(url.searchParams.get(name) ?? usual);
  if (!Number.isInteger(value) || value < 1 || value > max) {
    throw new Refusal(400, `${name} is a whole number from 1 to ${max}`);
  }
  return value;
}
