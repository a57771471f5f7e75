"""Chat completions over HTTP, one at a time: kept on disk, repeated with back-off, explicit about missing answers.

The `openai` client makes the requests. Its own retries are off: an empty, cut or broken answer is asked for again just
as after a status 500, in one loop for all of them.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from tutelage.common.checksums import seal, unseal
from tutelage.common.errors import TutelageError
from tutelage.evaluation.judges.endpoint import JudgeEndpoint
from tutelage.evaluation.judges.protocol import ChatReply

Messages = Sequence[dict[str, str]]

CACHE_FILE = "answers.jsonl"
FIRST_DELAY = 0.5  # seconds before the second try, doubled for each further one
LONGEST_DELAY = 60.0
LONGEST_RETRY_AFTER = 300.0  # an endpoint that asks to wait longer is not busy: a quota is used up
FAILURES_IN_A_ROW = 5  # failed requests without an answer between them, after which the endpoint counts as down
CUT_RETRIES = 2  # an answer that was cut at the length limit is likely to be cut again, and every try costs money
FATAL = {401: "check the key in ${key}", 403: "check the key in ${key}", 404: "check the address and the model's name"}


class _Transient(Exception):
    """A failure that may not repeat. `after`: seconds the endpoint asked to wait; `text`: the cut answer, if any."""

    def __init__(self, reason: str, after: float | None = None, text: str | None = None) -> None:
        super().__init__(reason)
        self.after = after
        self.text = text


class _Refused(Exception):
    """The endpoint refuses this request; asking again does not help."""


class AnswerCache:
    """An append-only file of answers by the hash of their request. A cut or damaged line is ignored."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / CACHE_FILE
        self.answers: dict[str, str] = {}
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        content = self.path.read_bytes() if self.path.exists() else b""
        for line in content.split(b"\n"):
            try:
                row = unseal(line.decode())
                self.answers[row["key"]] = str(row["text"])
            except (ValueError, KeyError, TypeError):
                continue  # that question is asked again
        self._ends_in_cut_line = bool(content) and not content.endswith(b"\n")

    def add(self, key: str, model: str, text: str) -> None:
        line = seal({"key": key, "model": model, "text": text})
        with self._lock:
            # one write per line, so that lines of two processes that share the file do not mix
            with self.path.open("ab", buffering=0) as handle:
                handle.write((b"\n" if self._ends_in_cut_line else b"") + line.encode())
            self._ends_in_cut_line = False
            self.answers[key] = text


class ChatClient:
    """Asks one endpoint, with the cache in its folder. Several threads may use it.

    Raises TutelageError where the openai client is not installed or the url is not a web address.
    """

    def __init__(self, endpoint: JudgeEndpoint) -> None:
        _check(endpoint)
        self.counts: Counter[str] = Counter()  # asked, cached, retried
        self._endpoint = endpoint
        self._cache = AnswerCache(endpoint.folder)
        self._client: Any = None
        self._key = os.environ.get(endpoint.api_key_env) or ""
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._fatal: TutelageError | None = None
        self._failures, self._last_failure = 0, ""

    def ask(self, messages: Messages, is_enough: Callable[[str], bool]) -> ChatReply:
        """The assistant's next message, from the cache or the endpoint.

        `is_enough(text)`: whether an answer that was cut at the length limit can be used. If not, it is asked for again
        and finally returned with a reason. A request that stays unanswered gives text None and a reason.
        Raises TutelageError when the endpoint cannot be used, or the client was stopped.
        """
        body = self._body(messages)
        key = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        known = self._cache.answers.get(key)
        if known is not None:
            self._count("cached")
            return ChatReply(known)
        for attempt in range(self._endpoint.retries + 1):
            if self._stopped.is_set():
                raise self._fatal or TutelageError(f"the judge at {self._endpoint.url} was stopped")
            try:
                text = self._request(body, is_enough)
            except _Refused as error:
                return self._give_up(str(error), None)
            except _Transient as error:
                cut = error.text is not None
                if attempt == self._endpoint.retries or (cut and attempt >= CUT_RETRIES):
                    return self._give_up(f"{error} ({attempt + 1} tries)", error.text)
                self._count("retried")
                self._stopped.wait(_delay(attempt, error.after))
            else:
                self._cache.add(key, self._endpoint.model, text)
                self._count("asked")
                return ChatReply(text)
        raise AssertionError("the last try returns or raises")

    def stop(self) -> None:
        """Let waiting threads end, and close the connections."""
        self._stopped.set()
        if self._client is not None:
            self._client.close()

    def check_any_answer(self) -> None:
        """Raises TutelageError when requests failed and none was answered."""
        if self._failures and not self.counts["asked"] and not self.counts["cached"]:
            raise self._unusable(self._last_failure)

    def _body(self, messages: Messages) -> dict[str, Any]:
        body: dict[str, Any] = {"model": self._endpoint.model, "messages": list(messages)}
        for name in ("temperature", "max_tokens"):
            if (value := getattr(self._endpoint, name)) is not None:
                body[name] = value
        return body

    def _request(self, body: dict[str, Any], is_enough: Callable[[str], bool]) -> str:
        """The text of one answer. Raises _Transient, _Refused or TutelageError."""
        import openai

        try:
            completion: Any = self._connected().chat.completions.create(**body)
        except openai.APITimeoutError:
            raise _Transient(f"no answer within {self._endpoint.timeout:g} s") from None
        except openai.APIConnectionError as error:
            raise _Transient(self._clean(f"no connection ({error.__cause__ or error})")) from None
        except openai.APIStatusError as error:
            raise self._of_status(error) from None
        except (openai.APIError, ValueError) as error:
            raise _Transient(self._clean(f"broken answer ({error})")) from None
        choices = getattr(completion, "choices", None)  # a body that is not JSON comes back as a string
        if not choices:
            raise _Transient("an answer without choices" if choices == [] else "an answer that is not JSON")
        text = getattr(choices[0].message, "content", None)
        if not isinstance(text, str) or not text.strip():
            raise _Transient("an empty answer")
        if choices[0].finish_reason == "length" and not is_enough(text):
            raise _Transient("cut at the length limit", text=text)
        return text

    def _of_status(self, error: Any) -> Exception:
        """The exception for a status: _Transient, _Refused, or TutelageError where no request can succeed."""
        status, message = error.status_code, self._clean(error.message)
        if status in FATAL or getattr(error, "code", None) == "insufficient_quota":
            hint = FATAL.get(status, "the account's quota is used up").replace("{key}", self._endpoint.api_key_env)
            return self._unusable(f"{message}; {hint}")
        if status in (408, 409, 425, 429) or status >= 500:
            after = _retry_after(error.response.headers)
            if after is not None and after > LONGEST_RETRY_AFTER:
                return self._unusable(f"{status}: it asks to wait {after:.0f} s")
            return _Transient(f"status {status}", after)
        return _Refused(f"refused with status {status}: {message}")

    def _connected(self) -> Any:
        """The openai client, made at first use."""
        with self._lock:
            if self._client is None:
                from openai import OpenAI

                self._client = OpenAI(
                    base_url=self._endpoint.url,
                    api_key=self._key or "none",  # local servers need none, but the client does
                    timeout=self._endpoint.timeout,
                    max_retries=0,
                )
            return self._client

    def _give_up(self, reason: str, text: str | None) -> ChatReply:
        """The reply of a request that failed. Raises TutelageError after FAILURES_IN_A_ROW of them."""
        with self._lock:
            if text is None:  # a cut answer shows that the endpoint works
                self._failures, self._last_failure = self._failures + 1, reason
            failures = self._failures
        if failures >= FAILURES_IN_A_ROW:
            raise self._unusable(reason)
        return ChatReply(text, reason)

    def _count(self, kind: str) -> None:
        with self._lock:
            self.counts[kind] += 1
            if kind == "asked":
                self._failures = 0

    def _unusable(self, why: str) -> TutelageError:
        """The error that ends the whole run; all threads stop with the first one."""
        kept = self.counts["asked"] + self.counts["cached"]
        error = TutelageError(
            f"the judge {self._endpoint.model} at {self._endpoint.url} gives no answers: {why}; "
            f"{kept} answers are kept, so the same command continues from there"
        )
        with self._lock:
            self._fatal = self._fatal or error
        self._stopped.set()
        return self._fatal

    def _clean(self, message: str) -> str:
        """The message as one line without the key, which some endpoints repeat in their errors."""
        message = " ".join(str(message).split())[:300]
        return message.replace(self._key, "[key]") if self._key else message


def _check(endpoint: JudgeEndpoint) -> None:
    if importlib.util.find_spec("openai") is None:
        raise TutelageError("judging needs the openai client: pip install 'tutelage[judge]'")
    if not endpoint.url.startswith(("http://", "https://")):
        raise TutelageError(
            f"--judge-url: `{endpoint.url}` is not a web address; give one like http://localhost:8000/v1"
        )


def _delay(attempt: int, after: float | None) -> float:
    """Seconds to wait before the next try; random, so that threads do not all ask at the same moment."""
    backoff = min(LONGEST_DELAY, FIRST_DELAY * 2**attempt) * random.uniform(0.5, 1.0)
    return backoff if after is None else after + backoff / 10


def _retry_after(headers: Any) -> float | None:
    """The seconds of a Retry-After header, which is a number or a date; None without one."""
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None
