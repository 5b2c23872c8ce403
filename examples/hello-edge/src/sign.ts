import type { Env } from "./env";
import { json, Refusal } from "./respond";

const encoder = new TextEncoder();

/** `GET /api/sign?text=…`: proves that the secret is there without ever showing it. */
export async function sign(url: URL, env: Env): Promise<Response> {
  const text = url.searchParams.get("text");
  if (text === null) {
    throw new Refusal(400, "say what to sign: /api/sign?text=hello");
  }
  const bytes = encoder.encode(text);
  if (bytes.byteLength > env.LIMITS.text_bytes_max) {
    throw new Refusal(413, `at most ${env.LIMITS.text_bytes_max} bytes are signed`);
  }
  if (!env.SIGNING_KEY) {
    throw new Refusal(503, "there is no key yet: wrangler secret put SIGNING_KEY");
  }
  const signature = await hmac(env.SIGNING_KEY, bytes);
  return json({ text, algorithm: "HMAC-SHA-256", signature });
}

async function hmac(secret: string, bytes: Uint8Array): Promise<string> {
  const algorithm = { name: "HMAC", hash: "SHA-256" } as const;
  const key = await crypto.subtle.importKey("raw", encoder.encode(secret), algorithm, false, ["sign"]);
  const signature = new Uint8Array(await crypto.subtle.sign("HMAC", key, bytes));
  return Array.from(signature, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
