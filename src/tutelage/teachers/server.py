"""`tutelage serve-teacher`: a model that answers students over HTTP with hidden states. `wire.py` has the format.

One thread computes, in the order of arrival; sending and receiving go on beside it. The server keeps no state about
its students, so it may be stopped and started at any time.
"""

from __future__ import annotations

import asyncio
import hmac
import io
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from aiohttp import web

from tutelage.common.errors import TutelageError
from tutelage.models.files import model_fingerprint
from tutelage.models.limits import embedding_rows
from tutelage.models.load import LoadedModel, load_model
from tutelage.recipe.sections import ModelConfig
from tutelage.sampling.vllm_files import load_reader
from tutelage.teachers import wire
from tutelage.teachers.local import LocalSource
from tutelage.teachers.vllm_source import VllmSource

LOCAL = ("127.0.0.1", "localhost", "::1")
_LARGEST_QUESTION = 64 * 2**20  # bytes


class TeacherServer:
    """The answers to the requests of `wire.py`.

    `fingerprint`: of the model's files (`model_fingerprint`); `budget`: tokens that the model reads at once. Requests
    must carry the token of the environment, if there is one.
    """

    def __init__(self, loaded: LoadedModel, fingerprint: str, budget: int = 16_384) -> None:
        self.source = LocalSource(loaded, budget) if loaded.engine is None else VllmSource(loaded)
        self.fingerprint, self.token = fingerprint, _token()
        self.rows = embedding_rows(loaded.model)
        self.context = loaded.context if loaded.engine is None else loaded.engine.context
        self._computing = ThreadPoolExecutor(1)
        head = self.source.head()
        self.precision = str(head.weight.dtype).removeprefix("torch.")
        self.about = {
            "format": wire.FORMAT,
            "name": loaded.name,
            "fingerprint": fingerprint,
            "precision": self.precision,
            "width": head.weight.shape[1],
            "rows": head.weight.shape[0],
            "scale": head.scale,
            "softcap": head.softcap,
        }

    def app(self) -> web.Application:
        """The application for a server."""
        made = web.Application(client_max_size=_LARGEST_QUESTION, middlewares=[self._checked])
        made.router.add_get("/teacher", self._about)
        made.router.add_get("/head", self._head)
        made.router.add_post("/signal", self._signal)
        return made

    @web.middleware
    async def _checked(self, request: web.Request, handler: Callable) -> web.StreamResponse:
        """Refuse requests without the token, and turn errors into one line."""
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.token and not hmac.compare_digest(given.encode(), self.token.encode()):
            return web.Response(status=401, text="the token is missing or wrong")
        try:
            response = await handler(request)
        except web.HTTPException as error:
            return web.Response(status=error.status, text=error.reason)
        except ValueError as error:
            return web.Response(status=400, text=str(error))
        except Exception as error:
            full = isinstance(error, torch.OutOfMemoryError)
            text = "the device's memory is full: lower --tokens" if full else f"{type(error).__name__}: {error}"
            print(f"a question was not answered: {' '.join(text.split())[:300]}", flush=True)
            return web.Response(status=500, text=" ".join(text.split())[:300])
        response.headers[wire.FINGERPRINT_HEADER] = self.fingerprint
        return response

    async def _about(self, _: web.Request) -> web.StreamResponse:
        return web.json_response(self.about)

    async def _head(self, _: web.Request) -> web.StreamResponse:
        return await self._computed(self._pack_head)

    async def _signal(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        return await self._computed(lambda: self._answer(body))

    async def _computed(self, work: Callable[[], bytes]) -> web.StreamResponse:
        body = await asyncio.get_running_loop().run_in_executor(self._computing, work)
        return web.Response(body=io.BytesIO(body), content_type=wire.TENSORS)

    def _pack_head(self) -> bytes:
        head = self.source.head()
        return wire.pack(weight=head.weight, **({} if head.bias is None else {"bias": head.bias}))

    def _answer(self, body: bytes) -> bytes:
        question = wire.unpack_question(body, self.rows, self.context)
        return wire.pack(hidden=self.source.answer(question))


def load_server(config: ModelConfig, device: str, precision: str, budget: int) -> TeacherServer:
    """Load a model and make its server, with `config.tensor_parallel` in vLLM. `precision`: `auto` (bfloat16 on CUDA,
    else float32) or a type."""
    if config.tensor_parallel is not None:
        kind = "bfloat16" if precision == "auto" else precision
        return TeacherServer(load_reader(config, kind, budget), model_fingerprint(config), budget)
    kinds = {"auto": torch.bfloat16 if device == "cuda" else torch.float32} | wire.PRECISIONS
    return TeacherServer(load_model(config, device, kinds[precision]), model_fingerprint(config), budget)


def _token() -> str:
    return os.environ.get(wire.TOKEN_VARIABLE, "")


def refuse_open(host: str) -> None:
    """Raise TutelageError for an address that others can reach while no token is set."""
    if host not in LOCAL and not _token():
        raise TutelageError(
            f"--host {host} is open to other machines: export {wire.TOKEN_VARIABLE} first, here and for the students"
        )


def serve(server: TeacherServer, host: str, port: int, started: Callable[[str], None]) -> None:
    """Answer requests until the process is stopped. `port` 0: any free one. `started` is called with one line.

    Raises TutelageError when the address is taken.
    """

    async def answer() -> None:
        runner = web.AppRunner(server.app(), access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as error:
            raise TutelageError(f"cannot listen at {host}:{port} ({error.strerror}): choose another --port") from None
        at = f"http://{f'[{host}]' if ':' in host else host}:{runner.addresses[0][1]}"
        started(f"serving {server.about['name']} in {server.precision} at {at} ({server.fingerprint}); Ctrl-C stops it")
        await asyncio.Event().wait()

    asyncio.run(answer())
