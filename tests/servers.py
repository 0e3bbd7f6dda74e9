"""A local HTTP server that serves what a test gives it."""

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def serving(files: dict[str, bytes], cut: int = 0, headers: dict[str, str] | None = None):
    "Serves `files` by path on 127.0.0.1, the last `cut` bytes of each left out, with `headers`; gives the address."

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            body = files.get(self.path.lstrip("/"))
            self.send_response(404 if body is None else 200)
            for name, value in {"Content-Length": str(len(body or b"")), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write((body or b"")[: len(body or b"") - cut])

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
