"""The HTTP server of the page: two files of its own, what is new in the runs, and the reports."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import ipaddress
import json
import re
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Any

from aiohttp import web

from tutelage.common.errors import TutelageError
from tutelage.watch.scan import REPORT, RunsView, parse_have

HOST = "127.0.0.1"
PORT = 8321  # where none is asked for; if it is taken, any free one
LONGEST_QUESTION = 256 * 1024  # bytes
_QUIET = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
# A report is shown as if it came from elsewhere: what it holds can ask this server nothing.
_REPORT_POLICY = "sandbox allow-scripts allow-popups allow-downloads; frame-ancestors 'none'"


class Server:
    """Serves the page of the folder `runs` from a thread of its own, until `close`.

    `port`: None takes 8321, or any free one when that is taken; 0 takes any. Raises TutelageError when it cannot listen
    there.
    """

    def __init__(self, runs: Path, host: str = HOST, port: int | None = None) -> None:
        self.host, self._view, self._port = host, RunsView(runs), port
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="watch", daemon=True)
        self._thread.start()
        try:
            self._runner = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()
        except BaseException:
            self._loop.call_soon_threadsafe(self._loop.stop)
            raise

    @property
    def url(self) -> str:
        """Where the page is."""
        name = HOST if self.host in ("", "0.0.0.0", "::") else self.host
        return f"http://{f'[{name}]' if ':' in name else name}:{self.port}/"

    def close(self) -> None:
        """Stop serving."""
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _start(self) -> web.AppRunner:
        runner = web.AppRunner(application(self._view, self.host), access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        for port in (PORT, 0) if self._port is None else (self._port,):
            with suppress(OSError):
                await web.TCPSite(runner, self.host, port).start()
                self.port = runner.addresses[0][1]
                return runner
        await runner.cleanup()
        raise TutelageError(
            f"{self.host}:{self._port or PORT} cannot be listened on: choose another --port or --host (0 is any port)"
        )


def is_local(host: str) -> bool:
    """Whether a server bound to `host` can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def application(view: RunsView, host: str = HOST) -> web.Application:
    """The pages as an aiohttp application. Bound to this machine (`host`), it answers requests that name it so alone:
    otherwise any web page could read it through a name of its own that leads to 127.0.0.1."""
    here = files("tutelage.watch")
    page, script = ((here / name).read_text(encoding="utf-8") for name in ("page.html", "page.js"))
    style = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'self'; style-src 'sha256-{digest}'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    names = {"localhost", "127.0.0.1", "[::1]", host, f"[{host}]"} if is_local(host) else None

    @web.middleware
    async def guard(request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> Any:
        try:
            if names is not None and re.sub(r":\d+$", "", request.host) not in names:
                raise web.HTTPForbidden(text="this page is served to 127.0.0.1 and localhost only")
            response = await handler(request)
        except web.HTTPException as error:
            response = web.Response(
                status=error.status, text=error.text, headers={"Allow": error.headers.get("Allow", "")}
            )
        response.headers.update(_QUIET)
        response.headers.setdefault("Content-Security-Policy", policy)
        return response

    async def show(_: web.Request) -> web.Response:
        return web.Response(text=page, content_type="text/html")

    async def code(_: web.Request) -> web.Response:
        return web.Response(text=script, content_type="text/javascript")

    async def news(request: web.Request) -> web.Response:
        try:
            have = parse_have(json.loads(await request.text()))
        except (ValueError, RecursionError) as error:
            raise web.HTTPBadRequest(text=f"not what the page asks: {error}") from error
        found = await asyncio.to_thread(view.news, have)
        return web.json_response(found, dumps=lambda value: json.dumps(value, allow_nan=False))

    async def report(request: web.Request) -> web.StreamResponse:
        name, file = request.match_info["name"], request.match_info["file"] or REPORT
        path = await asyncio.to_thread(view.report_file, name, file)
        if path is None:
            raise web.HTTPNotFound(text="no such report")
        return web.FileResponse(path, headers={"Content-Security-Policy": _REPORT_POLICY})

    app = web.Application(middlewares=[guard], client_max_size=LONGEST_QUESTION)
    app.add_routes([web.get("/", show), web.get("/page.js", code), web.post("/news", news)])
    app.router.add_get("/reports/{name}/{file:.*}", report)
    return app
