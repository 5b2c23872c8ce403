"""Cloudflare's API v4 as far as stock wrangler and the official SDKs need it for Workers.

    request → Gate (token, account, scope) → border checks (size, multipart, JSON, words) → use case → envelope

`skerry.wire.cloudflare.app.make_app(UseCases)` makes the application.
Decisions are the use cases'; here is how they are asked for and shown.
"""
