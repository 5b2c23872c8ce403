"""A web service of the standard library alone: what it is, and whatever was sent to it."""

import json
import os
import platform
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Service(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        answer = {"path": self.path, "host": platform.node(), "user": os.getuid(), "python": platform.python_version()}
        self.reply(json.dumps(answer).encode() + b"\n")

    def do_POST(self) -> None:
        self.reply(self.rfile.read(int(self.headers.get("content-length", "0"))))

    def reply(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print(f"serving on {os.environ.get('PORT', '8080')}", flush=True)
ThreadingHTTPServer(("", int(os.environ.get("PORT", "8080"))), Service).serve_forever()
