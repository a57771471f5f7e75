"""A teacher's answers on disk: shards that are whole or absent, shared by all runs that ask the same of it.

A folder has the answers of one teacher in one form. A shard is `NAME.safetensors` and, written after it, `NAME.json`: a
line with a checksum that says whose answers these are, to which questions (by `Question.key`), and the hash of the
data. NAME is the hash of the questions, so runs with the same rows look for the same shards. Who computes a shard holds
its lock; several ranks and runs compute different ones at the same time.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from tutelage.common.checksums import read_one, seal
from tutelage.common.files import cached_hash, hash_file, write_atomically, write_bytes_atomically
from tutelage.common.hashing import fingerprint
from tutelage.common.types import Head, TopLogprobs
from tutelage.teachers import wire
from tutelage.teachers.protocol import Answer, Question

FORMAT = 1
SHARD_BYTES = 256 * 2**20
HEAD = "head"


@dataclass(frozen=True)
class Shard:
    """Questions whose answers are one file."""

    name: str
    questions: tuple[Question, ...]
    keys: tuple[str, ...]

    @property
    def positions(self) -> int:
        """How many tokens are predicted."""
        return sum(len(question.predict) for question in self.questions)


@dataclass(frozen=True)
class Form:
    """How answers are kept: hidden states of `width` numbers in `dtype`, or the `top_k` likeliest tokens."""

    dtype: torch.dtype
    width: int
    top_k: int | None = None

    @property
    def name(self) -> str:
        """For the folder and the identity."""
        return f"top_{self.top_k}" if self.top_k else str(self.dtype).removeprefix("torch.")

    @property
    def position_bytes(self) -> int:
        """Bytes per predicted token."""
        return 8 * self.top_k + 4 if self.top_k else self.width * self.dtype.itemsize


class ShardStore:
    """The shards of one teacher, in a folder of `root` named by `teacher`, which identifies its answers, and `form`."""

    def __init__(self, root: Path, teacher: str, form: Form) -> None:
        self.folder, self.teacher, self.form = root / f"{teacher}-{form.name}", teacher, form
        self.places: dict[str, tuple[str, int, int]] = {}  # key of a question → shard, first row, end
        self._open = lru_cache(64)(self._open_shard)

    def plan(self, sections: Sequence[Sequence[Question]], shard_bytes: int = SHARD_BYTES) -> list[Shard]:
        """All distinct questions as shards. Each section begins a new one, so that mixtures share those of parts."""
        shards, seen = [], set[str]()
        for section in sections:
            group: list[tuple[str, Question]] = []
            size = 0
            for question in section:
                key, own = question.key(), len(question.predict) * self.form.position_bytes
                if not own or key in seen:
                    continue
                seen.add(key)
                if group and size + own > shard_bytes:
                    shards.append(_shard(group))
                    group, size = [], 0
                group.append((key, question))
                size += own
            shards += [_shard(group)] if group else []
        return shards

    def has(self, shard: Shard) -> bool:
        """Whether the shard is there, whole and this teacher's. Prints a line if it is not what it seems to be."""
        if shard.keys[0] in self.places:
            return True
        about = self._about(shard.name)
        if about is None:
            return False
        if about["keys"] != list(shard.keys):
            self._forget(shard.name, "holds other rows")
            return False
        start = 0
        for key, question in zip(shard.keys, shard.questions, strict=True):
            end = start + len(question.predict)
            self.places[key] = (shard.name, start, end)
            start = end
        return True

    def write(self, shard: Shard, answer: Answer) -> None:
        """Store the answer to the shard's questions, joined; only who holds its lock may. Raises TutelageError when the
        disk is full."""
        if isinstance(answer, TopLogprobs):
            tensors = vars(answer) | {"ids": answer.ids.to(torch.int32)}
        else:
            tensors = {"hidden": answer.to(self.form.dtype)}
        self._write(shard.name, {"keys": list(shard.keys)}, tensors)

    def read(self, key: str) -> Answer:
        """The answer to one question that `has` has found."""
        name, start, end = self.places[key]
        columns = {column: self._open(name).get_slice(column)[start:end] for column in self.columns}
        if self.form.top_k:
            return TopLogprobs(columns["ids"].long(), columns["logprobs"], columns["tail"])
        return columns["hidden"]

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the tensors of a shard."""
        return ("ids", "logprobs", "tail") if self.form.top_k else ("hidden",)

    def has_head(self) -> bool:
        """Whether the teacher's output layer is there."""
        return self._about(HEAD) is not None

    def head(self) -> Head | None:
        """The teacher's output layer, if it is there."""
        about = self._about(HEAD)
        if about is None:
            return None
        found = wire.unpack(self._file(HEAD).read_bytes())
        return Head(found["weight"], found.get("bias"), about["scale"], about["softcap"])

    def write_head(self, head: Head) -> None:
        """Store the teacher's output layer."""
        tensors = {"weight": head.weight, **({} if head.bias is None else {"bias": head.bias})}
        self._write(HEAD, {"scale": head.scale, "softcap": head.softcap}, tensors)

    @contextlib.contextmanager
    def claim(self, name: str) -> Iterator[bool]:
        """Hold the lock of a shard, if nobody else does; it ends with this process."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f".{name}.lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield True
            path.unlink(missing_ok=True)
        except BlockingIOError:
            yield False
        finally:
            os.close(descriptor)

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"

    def _about(self, name: str) -> dict[str, Any] | None:
        """What the line beside a file says, if it is true; prints one line if not."""
        path, file = self.folder / f"{name}.json", self._file(name)
        if not path.exists():
            return None  # a file without it was being written
        about = read_one(path)
        if about is None or not file.is_file() or cached_hash(file) != about.get("sha256"):
            return self._forget(name, "is damaged")
        if about.get("teacher") != self.teacher or about.get("form") != self.form.name:
            return self._forget(name, "is another teacher's")
        return about

    def _forget(self, name: str, why: str) -> None:
        print(f"{self._file(name)} {why}: computed again", flush=True)
        (self.folder / f"{name}.json").unlink(missing_ok=True)

    def _write(self, name: str, about: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        file = self._file(name)
        for leftover in self.folder.glob(f".{name}.*.partial"):  # of who had the lock before and was killed
            leftover.unlink()
        write_bytes_atomically(file, wire.pack(**tensors))
        about |= {"format": FORMAT, "teacher": self.teacher, "form": self.form.name, "sha256": hash_file(file)}
        write_atomically(self.folder / f"{name}.json", seal(about))

    def _open_shard(self, name: str) -> Any:
        from safetensors import safe_open

        return safe_open(self._file(name), "pt").__enter__()


def _shard(group: Sequence[tuple[str, Question]]) -> Shard:
    keys = tuple(key for key, _ in group)
    return Shard(fingerprint(list(keys)), tuple(question for _, question in group), keys)
