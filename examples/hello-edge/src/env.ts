/** What wrangler.jsonc binds, and the one secret. */
export interface Env {
  ASSETS: { fetch(request: Request): Promise<Response> };
  GREETING: string;
  LIMITS: { echo_bytes_max: number; text_bytes_max: number; stream_chunks_max: number };
  VERSION: { id: string; tag: string; timestamp: string };
  /** Set by `wrangler secret put SIGNING_KEY`; until then nothing can be signed. */
  SIGNING_KEY?: string;
}

/** The part of `request.cf` that tells where a request is answered. */
export interface Place {
  colo?: string;
  city?: string;
  country?: string;
}
