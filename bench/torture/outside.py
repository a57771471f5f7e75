"""What is outside of a run: clocks that jump, other processes on its folder, judges and hubs that stall, lie or die."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from random import Random
from typing import Any

from bench.torture.loads import Loads
from bench.torture.machine import Load, Row, at_write, die, void

YEAR = 365 * 86_400.0


def clocks(name: str, loads: Loads, chance: Random, count: int) -> Row:
    """A load whose clocks (`time.time`, `time.monotonic`, `time.perf_counter`) jump to and fro by up to a year, and
    whose files get times of the past and the future; killed once, and resumed."""
    load, row = loads[name], Row(f"clock jumps: {name}", note="Python's clocks")
    for _ in range(count):
        load.begin()
        seed, at = chance.random(), chance.randint(1, load.writes)

        def jumping(seed: float = seed, at: int = 0) -> None:
            jump(Random(seed))
            void(at_write(load.folder, at, die)) if at else None

        row.kills += load.run(lambda at=at: jumping(at=at)).ended().code < 0
        for path in load.folder.rglob("*"):
            moment = time.time() + chance.uniform(-YEAR, YEAR)
            os.utime(path, (moment, moment))
        row.faults += 1
        load.finish(row, "", jumping)
    return row


def jump(chance: Random) -> None:
    """From now on this process's clocks jump at one reading of a hundred, and stand still at another."""
    for name in ("time", "monotonic", "perf_counter"):
        real, state = getattr(time, name), {"ahead": 0.0, "last": 0.0}

        def reading(real: Callable[[], float] = real, state: dict[str, float] = state) -> float:
            draw = chance.random()
            if draw < 0.01:
                state["ahead"] = chance.uniform(-YEAR, YEAR)
            if not draw > 0.98:
                state["last"] = real() + state["ahead"]
            return state["last"]

        setattr(time, name, reading)


def two(name: str, loads: Loads, chance: Random, count: int) -> Row:
    """The same command twice at the same time. One of them may be told that the other is at work."""
    load, row = loads[name], Row(f"two processes: {name}")
    for _ in range(count):
        load.begin()
        first = load.run()
        time.sleep(chance.uniform(0.0, 0.5) * load.seconds)
        other = Load(f"{name}-second", load.work, load.folder, load.logs)
        second = other.run()
        for program in (first, second):
            problem = program.ended().problem(may_fail=True)
            row.losses += [f"{name}: {problem}"] if problem else []
        row.faults += 1
        load.finish(row)
    return row


# --- the judge --------------------------------------------------------------------------------------------------------


def judge(folder: Path, chance: Random, count: int) -> Row:
    """A judge that now and then stalls, dies, lies or sends rubbish, and then answers: the same answers, or none."""
    from judge_endpoint import Endpoint, completion, hangs, hangs_up, sends

    from tutelage.common.errors import TutelageError
    from tutelage.evaluation.judges import chat_client
    from tutelage.evaluation.judges.endpoint import JudgeEndpoint
    from tutelage.evaluation.judges.judge import JudgeItem, judge_questions

    ways: Sequence[Callable[[BaseHTTPRequestHandler], None]] = (
        hangs,
        hangs_up,
        sends(500, {"error": "no"}),
        sends(503, b"<html>busy</html>"),
        sends(429, {"error": {"message": "slow down"}}, Retry_After="0"),
        sends(200, b"not JSON at all"),
        sends(200, b'{"choices": [{"mess'),
        sends(200, {"answer": "YES"}),
        sends(200, {"choices": []}),
        sends(200, {"choices": [{"index": 0, "message": None, "finish_reason": "stop"}]}),
        sends(200, completion(None)),
        sends(200, completion("", "length")),
        sends(200, b"\x00" * (8 << 20)),
        sends(200, []),
        sends(200, "YES"),
    )
    row = Row("judge that stalls, lies or dies")
    questions = ("Is it short?", "Is it long? (no)", "Is it a text?")
    items = [JudgeItem(f"i{n}", f"Write {n}.", "", f"Text {n}.", questions) for n in range(6)]
    wanted = [["yes", "no", "yes"]] * len(items)
    chat_client.FIRST_DELAY = 0.01
    while row.faults < count:
        endpoint, place = Endpoint(), folder / f"judge-{row.faults}"
        chosen = {n: chance.choice(ways) for n in chance.sample(range(20), chance.randint(2, 18))}
        endpoint.misbehave = chosen
        asked = JudgeEndpoint(url=endpoint.url, model="j", timeout=0.3, retries=2, concurrency=3, cache_folder=place)
        for kind in ("bad", "good"):
            try:
                found = judge_questions(asked, items)
                rows = zip(found, wanted, strict=True)
                lies = [x for one, right in rows for x, y in zip(one, right, strict=True) if x not in (None, y)]
                if lies or (kind == "good" and found != wanted):
                    row.losses.append(f"judge: {found}")
            except TutelageError as error:
                if kind == "good" or "\n" in str(error):
                    row.losses.append(f"judge: {error}")
            endpoint.misbehave = {}
        row.faults += len(chosen)
        endpoint.server.shutdown()
        endpoint.server.server_close()
        shutil.rmtree(place, ignore_errors=True)
    return row


# --- the hub ----------------------------------------------------------------------------------------------------------


class Hub:
    """A hub with one model, `some/model`, whose files are those of a folder; `misbehave` decides about a request."""

    def __init__(self) -> None:
        from http.server import ThreadingHTTPServer
        from threading import Thread

        self.files = Path()
        self.misbehave: Callable[[BaseHTTPRequestHandler], bool] = lambda handler: False
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if not hub.misbehave(self):
                    hub.answer(self)

            do_HEAD = do_GET

            def log_message(self, format: str, *args: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        path = handler.path.split("?")[0]
        names = sorted(file.name for file in self.files.iterdir())
        if path.startswith("/api/models/some/model"):
            listed = [{"rfilename": name, "type": "file", "path": name, "size": 1, "oid": "0" * 40} for name in names]
            about = {"id": "some/model", "modelId": "some/model", "sha": "1" * 40, "siblings": listed}
            return reply(handler, 200, json.dumps(listed if "/tree/" in path else about).encode())
        name = path.rpartition("/")[2]
        if "/resolve/" not in path or name not in names:
            return reply(handler, 404, b"{}", {"X-Error-Code": "EntryNotFound"})
        content = (self.files / name).read_bytes()
        heads = {"ETag": f'"{name}-{len(content)}"', "X-Repo-Commit": "1" * 40, "Accept-Ranges": "bytes"}
        return reply(handler, 200, content, heads)


def reply(handler: BaseHTTPRequestHandler, status: int, content: bytes, heads: dict[str, str] | None = None) -> None:
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(content)), **(heads or {})}.items():
        handler.send_header(name, value)
    handler.end_headers()
    if handler.command == "GET":
        handler.wfile.write(content)


def hub_row(hub: Hub, loads: Loads, chance: Random, count: int) -> Row:
    """A student from a hub that stalls, lies or dies: one line of error, and with a good hub the unbroken results."""

    def late(handler: BaseHTTPRequestHandler) -> bool:
        time.sleep(3)
        handler.close_connection = True
        return True

    def dies(handler: BaseHTTPRequestHandler) -> bool:
        """In the middle of the weights."""
        if "safetensors" not in handler.path or handler.command != "GET":
            return False
        content = (hub.files / "model.safetensors").read_bytes()
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content[: len(content) // 2])
        handler.close_connection = True
        return True

    def says(status: int, content: bytes) -> Callable[[BaseHTTPRequestHandler], bool]:
        def act(handler: BaseHTTPRequestHandler) -> bool:
            reply(handler, status, content, {"X-Repo-Commit": "1" * 40, "ETag": '"x"'})
            return True

        return act

    def says_at(name: str, content: bytes) -> Callable[[BaseHTTPRequestHandler], bool]:
        return lambda handler: name in handler.path and says(200, content)(handler)

    ways = [late, dies, says(500, b"no"), says(200, b"\xff not JSON"), says(200, b"{}"), says(404, b"{}"),
            says(200, b"[" * (1 << 20)), says_at("config.json", b'{"model_type": "lla'),
            says_at("tokenizer.json", b"{}"), says_at("safetensors", b"\0" * 4096),
            says_at("chat_template", b"{% for")]  # fmt: skip
    hub.files = loads.folder / "student"
    file = loads.write("hub", [{"name": "sft", "kind": "sft", "data": "train"}], student={"path": "some/model"},
                       training={"batch_size": 4, "epochs": 1, "max_length": 96})  # fmt: skip
    cache, row = Path(os.environ["HF_HOME"]), Row("hub that stalls, lies or dies")
    shutil.rmtree(cache, ignore_errors=True)
    load = Load("hub", loads.command(file), loads.runs, loads.folder)
    load.measure()
    for way in [*ways, *(chance.choice(ways) for _ in range(count - len(ways)))][:count]:
        load.begin()
        shutil.rmtree(cache, ignore_errors=True)
        hub.misbehave = way
        ended = load.run().ended(limit=60)
        problem = ended.problem(may_fail=True)
        row.losses += [f"hub: {problem}"] if problem else []
        hub.misbehave = lambda handler: False
        row.faults += 1
        if f"remove {cache}" in ended.line:
            shutil.rmtree(cache)
        load.finish(row)
    return row
