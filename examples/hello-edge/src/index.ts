import type { Env, Place } from "./env";
import { echoSocket, stream } from "./live";
import { allow, json, Refusal } from "./respond";
import { sign } from "./sign";

/** A small app that shows where it runs. The page and its styles are static assets; this code answers the rest. */
export default {
  async fetch(request: Request, env: Env): Promise<Response> {
    try {
      return await route(request, env);
    } catch (error) {
      if (error instanceof Refusal) {
        return json({ error: error.message }, error.status);
      }
      throw error;
    }
  },
};

async function route(request: Request, env: Env): Promise<Response> {
  const url = new URL(request.url);
  switch (url.pathname) {
    case "/api/where":
      allow(request, "GET", "HEAD");
      return json(where(request, env));
    case "/api/sign":
      allow(request, "GET");
      return sign(url, env);
    case "/api/echo":
      return json(await echo(request, url, env));
    case "/api/stream":
      allow(request, "GET");
      return stream(url, env);
    case "/ws":
      return echoSocket(request, `${env.GREETING}, ${placeOf(request).city ?? "wherever this is"}`);
    default:
      // Under /api/ there is nothing else; all other paths belong to the assets, with their own 404 page.
      if (url.pathname.startsWith("/api/")) {
        throw new Refusal(404, `nothing at ${url.pathname}`);
      }
      return env.ASSETS.fetch(request);
  }
}

function where(request: Request, env: Env) {
  const { colo = "local", city = "this machine", country = "" } = placeOf(request);
  return { app: "hello-edge", greeting: env.GREETING, colo, city, country, version: env.VERSION.id, tag: env.VERSION.tag };
}

async function echo(request: Request, url: URL, env: Env) {
  const body = await request.arrayBuffer();
  if (body.byteLength > env.LIMITS.echo_bytes_max) {
    throw new Refusal(413, `at most ${env.LIMITS.echo_bytes_max} bytes are echoed`);
  }
  return {
    method: request.method,
    path: url.pathname,
    query: Object.fromEntries(url.searchParams),
    headers: Object.fromEntries(request.headers),
    body: new TextDecoder().decode(body),
  };
}

function placeOf(request: Request): Place {
  return (request as Request & { cf?: Place }).cf ?? {};
}
