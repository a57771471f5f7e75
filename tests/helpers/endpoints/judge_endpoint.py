"""A real local endpoint that speaks the chat-completions format, and misbehaves where a test asks it to."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "sk-very-secret-1234567890"


def completion(text: str | None, finish: str = "stop") -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "j",
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
    }


class Endpoint:
    """A judge that says YES unless the question holds "(no)"; `misbehave[n]` decides about the n-th request."""

    def __init__(self, models: tuple[str, ...] = ("j",)) -> None:
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.times: list[float] = []
        self.misbehave: dict[int, Callable[[BaseHTTPRequestHandler], None]] = {}
        self.always: Callable[[BaseHTTPRequestHandler], None] | None = None
        self.text: Callable[[dict[str, Any]], str] = lambda body: (
            "NO" if "(no)" in body["messages"][-1]["content"] else "YES"
        )
        lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                listed = {"object": "list", "data": [{"id": name, "object": "model"} for name in models]}
                (outer.always or (lambda handler: send(handler, 200, listed)))(self)

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    number = len(outer.requests)
                    outer.requests.append(body)
                    outer.keys.append(self.headers["Authorization"])
                    outer.times.append(time.monotonic())
                act = outer.always or outer.misbehave.get(number)
                act(self) if act else send(self, 200, completion(outer.text(body)))

            def log_message(self, format: str, *args: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()


def send(handler: BaseHTTPRequestHandler, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    handler.send_response(status)
    for name, value in {"Content-Type": "application/json", "Content-Length": str(len(content))}.items():
        handler.send_header(name, (headers or {}).pop(name, value))
    for name, value in (headers or {}).items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(content)


def sends(status: int, body: Any, **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    return lambda handler: send(handler, status, body, {name.replace("_", "-"): v for name, v in headers.items()})


def hangs(handler: BaseHTTPRequestHandler) -> None:
    handler.rfile.read(1)  # until the client has closed the connection
    handler.close_connection = True


def hangs_up(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)
