"""Teachers over HTTP for tests: the real server in a thread, stopped and started at one address, and a liar."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from typing import Any

from aiohttp import web

from tutelage.models.files import model_fingerprint
from tutelage.models.load import load_model
from tutelage.recipe.sections import ModelConfig
from tutelage.teachers.server import TeacherServer


class Served:
    """An application at a port of its own, until `stop`; `start` serves again at the same address.

    `misbehave[n]` gives the n-th answer to `/signal` instead of the application, or None to let it answer.
    """

    def __init__(self, app: Callable[[], web.Application]) -> None:
        self.make, self.asked = app, 0
        self.misbehave: dict[int, Callable[[web.Request], Any]] = {}
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        ready = threading.Event()
        self._loop = asyncio.new_event_loop()

        @web.middleware
        async def watched(request: web.Request, handler: Any) -> Any:
            if request.path.endswith(("/signal", "/completions")):
                act = self.misbehave.get(self.asked)
                self.asked += 1
                if act is not None:
                    found = act(request)
                    found = await found if asyncio.iscoroutine(found) else found
                    if found is not None:
                        return found
            return await handler(request)

        async def run() -> None:
            app = self.make()
            app.middlewares.insert(0, watched)
            self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
            await self._runner.setup()
            await web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True).start()
            ready.set()

        def forever() -> None:
            asyncio.set_event_loop(self._loop)
            self._loop.run_until_complete(run())
            self._loop.run_forever()

        self._thread = threading.Thread(target=forever, daemon=True)
        self._thread.start()
        assert ready.wait(20)

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(20)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)


def serving(path: str, **options: Any) -> Served:
    """The model of a folder, served in float32."""
    config = ModelConfig(path=path)
    server = TeacherServer(load_model(config), model_fingerprint(config), **options)
    return Served(server.app)
