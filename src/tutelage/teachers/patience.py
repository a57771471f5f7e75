"""Requests to a teacher over HTTP that outlast its restarts: repeated with back-off, one line per repetition.

Each request has a connection of its own, by the standard library: reading 64 MiB takes 50 ms of the processor, beside
the student's own thread, where clients that read in small pieces take 130 (docs/decisions.md).
"""

from __future__ import annotations

import http.client
import json
import os
import random
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from tutelage.common.errors import TutelageError
from tutelage.common.interrupt import Interrupted, asked_to_stop

FIRST_DELAY, LONGEST_DELAY = 0.5, 30.0  # seconds before a request is repeated
_BUSY = (408, 425, 429)
_CONNECT_SECONDS = 10.0


@dataclass(frozen=True)
class Response:
    """A whole answer."""

    status: int
    kind: str  # its content type
    headers: Any  # a mapping that ignores case
    body: bytes

    def json(self) -> Any:
        """The body as JSON. Raises ValueError for one that is something else."""
        return json.loads(self.body)


class AwayError(TutelageError):
    """The teacher has not answered for as long as it may be away."""


class PatientClient:
    """Asks the teacher at `url`. Several threads may use it.

    `who`: the teacher in messages; `key_variable`: the environment variable with the token, which is sent to this
    address alone; `wait`: seconds for which a request is repeated, and for which an answer may take (0: it is asked
    once, and has 10 s); `advice`: what to do when that was in vain.

    Raises TutelageError for an address that is not http(s), or that holds a password.
    """

    def __init__(self, who: str, url: str, key_variable: str, wait: float, advice: str) -> None:
        check_address(url)
        self.who, self.key_variable, self.wait, self.advice = f"{who} at {url}", key_variable, wait, advice
        self._key = os.environ.get(key_variable) or ""
        self._headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        self._address, self._base = urlsplit(url), urlsplit(url).path.rstrip("/")
        self._failed = threading.Event()  # one request can never succeed: the others are given up

    def ask(self, method: str, path: str, body: bytes | None = None, kind: str = "") -> Response:
        """The answer with status 200, whole. `kind`: the content type of `body`.

        Raises TutelageError for a request that the teacher refuses, AwayError when `wait` is over, and Interrupted
        when the process was asked to stop while it waits.
        """
        headers = self._headers | ({"Content-Type": kind} if kind else {})
        began, attempt = time.monotonic(), 0
        while True:
            try:
                response = self._request(method, path, body, headers)
                if response.status == 200:
                    return response
                reason = self._reason(response)
            except TimeoutError:
                reason = f"no answer within {self.wait or _CONNECT_SECONDS:g} s"
            except (OSError, http.client.HTTPException) as error:
                reason = f"no connection ({str(error) or type(error).__name__})"
            left = began + self.wait - time.monotonic()
            delay = min(LONGEST_DELAY, FIRST_DELAY * 2**attempt) * random.uniform(0.5, 1.0)
            if left <= 0:
                time_over = f", for {self.wait:g} s" if self.wait else ""
                raise self.failure(f"{self._clean(reason)}{time_over}: {self.advice}", AwayError)
            delay, attempt = min(delay, left), attempt + 1
            print(f"{self.who}: {self._clean(reason)}: asked again in {delay:.1f} s, for {left:.0f} s", flush=True)
            self._sleep(delay)

    def _request(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Response:
        secure = self._address.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        connection = kind(str(self._address.hostname), self._address.port, timeout=_CONNECT_SECONDS)
        try:
            connection.connect()
            connection.sock.settimeout(self.wait or _CONNECT_SECONDS)
            connection.request(method, f"{self._base}/{path}", body, dict(headers))
            given = connection.getresponse()
            return Response(given.status, given.headers.get("Content-Type", "nothing"), given.headers, given.read())
        finally:
            connection.close()

    def failure(self, why: str, kind: type[TutelageError] = TutelageError) -> TutelageError:
        """The error that ends the run; other requests of this client end too."""
        self._failed.set()
        return kind(f"{self.who}: {why}")

    def _reason(self, response: Response) -> str:
        """Why to ask again. Raises TutelageError where that does not help."""
        status, said = response.status, self._clean(_message(response))
        if status in _BUSY or status >= 500:
            return f"status {status}{f' ({said})' if said else ''}"
        if status in (401, 403):
            state = "is refused" if self._key else "is not set"
            raise self.failure(f"wants a token, and ${self.key_variable} {state}: export the right one")
        raise self.failure(f"refuses (status {status}): {said or 'no reason given'}")

    def _sleep(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if asked_to_stop():
                raise Interrupted("stopped while it waited for the teacher; the same command goes on from there")
            if self._failed.wait(min(0.2, left)):
                raise self.failure("another request to it has failed")

    def _clean(self, text: str) -> str:
        """The text as one line without the token, which some endpoints repeat in their errors."""
        text = " ".join(text.split())[:300]
        return text.replace(self._key, "[token]") if self._key else text


def check_address(url: str) -> None:
    """Raise TutelageError for what is no address of a teacher."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise TutelageError(f"the teacher's address `{url}` is not one such as http://localhost:8700: correct `signal`")
    if "@" in parts.netloc:
        raise TutelageError("the teacher's address holds a password: leave it out, and put the token into a variable")


def _message(response: Response) -> str:
    """What a text, or the JSON of an OpenAI-compatible endpoint, says of an error."""
    if response.kind.startswith("text/plain"):
        return response.body.decode(errors="replace")
    try:
        found = response.json()
        error = found.get("error", found)
        return str(error.get("message", "") if isinstance(error, dict) else error)
    except (ValueError, AttributeError):
        return ""
