"""Serve this model over HTTP: python serve.py [--port 8000] [--host 127.0.0.1].

    POST /run     an .npz with an array per input name; answers an .npz with an array per output name
    GET  /health  200 once the model is on the device
    GET  /model   the manifest

One request runs at a time; the others wait.  Put a proxy in front of it for anything but a trusted network.
"""

from __future__ import annotations

import argparse
import io
import json
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from run import Model  # type: ignore[import-not-found]  # it lies beside this file

LARGEST = 1 << 30  # bytes of a request


def make_server(model: Model, host: str, port: int) -> ThreadingHTTPServer:
    """A server that is ready to run."""
    busy = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def answer(self, status: int, body: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            pages = {"/health": b"{}", "/model": json.dumps(model.manifest).encode()}
            body = pages.get(self.path)
            self.answer(200 if body is not None else 404, body or b"no such page", "application/json")

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            if self.path != "/run" or not 0 < length <= LARGEST:
                self.answer(400, b"POST an .npz to /run", "text/plain")
                return
            try:
                with np.load(io.BytesIO(self.rfile.read(length)), allow_pickle=False) as file:
                    inputs = {name: file[name] for name in model.inputs}
                with busy:
                    outputs: list[Any] = [np.asarray(a) for a in model(**inputs)]
            except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
                self.answer(400, f"{type(error).__name__}: {error}".encode(), "text/plain")
                return
            buffer = io.BytesIO()
            np.savez(buffer, **dict(zip(model.outputs, outputs, strict=True)))
            self.answer(200, buffer.getvalue(), "application/octet-stream")

    return ThreadingHTTPServer((host, port), Handler)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--platform", help="device to run on (default: the one it was compiled for)")
    arguments = parser.parse_args()
    server = make_server(Model(platform=arguments.platform), arguments.host, arguments.port)
    print(f"serving on http://{arguments.host}:{server.server_address[1]}")
    server.serve_forever()


if __name__ == "__main__":
    main()
