"""A teacher's signal that is computed once, and read from shards on disk ever after."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence

import torch

from tutelage.common.errors import TutelageError
from tutelage.common.interrupt import Interrupted, asked_to_stop
from tutelage.common.progress import progress
from tutelage.common.types import Head
from tutelage.teachers.protocol import Answer, Question, Source, concatenated, joined, moved, split
from tutelage.teachers.shards import HEAD, Shard, ShardStore

_GIB, _CPU = 2**30, torch.device("cpu")


def fill(store: ShardStore, shards: Sequence[Shard], source: Callable[[], Source], title: str) -> None:
    """Compute the shards that are not there, together with other ranks and runs that do the same.

    `source`: makes the teacher that is asked; not called if nothing is missing. Says beforehand how much it will write.
    Raises TutelageError if the disk has no room for it, and Interrupted when the process is asked to stop.
    """
    missing = [shard for shard in shards if not store.has(shard)]
    headless = store.form.top_k is None and not store.has_head()
    if not missing and not headless:
        return
    _announce(store, shards, missing, title)
    teacher = source()
    while headless:
        with store.claim(HEAD) as mine:
            if mine and not store.has_head():
                head = teacher.head()
                assert head is not None
                store.write_head(head)
        headless = not store.has_head()
    total, told = len(missing), False
    with progress(f"{title}: the teacher's signal", total, 0) as bar:
        while missing:
            before = len(missing)
            for shard in list(missing):
                if asked_to_stop():
                    raise Interrupted("stopped; the shards that are done are kept, and the same command goes on")
                with store.claim(shard.name) as mine:
                    if mine and not store.has(shard):
                        store.write(shard, teacher.answer(joined(shard.questions)))
                if store.has(shard):
                    missing.remove(shard)
                    bar.advance(1, f"shard {total - len(missing)} of {total}")
            if len(missing) == before:  # others are computing them
                if not told:
                    what = "1 shard is" if before == 1 else f"{before} shards are"
                    print(f"{title}: {what} computed by other processes: waiting", flush=True)
                told = True
                time.sleep(0.2)


def _announce(store: ShardStore, shards: Sequence[Shard], missing: Sequence[Shard], title: str) -> None:
    store.folder.mkdir(parents=True, exist_ok=True)
    size, free = (sum(s.positions for s in missing) * store.form.position_bytes, shutil.disk_usage(store.folder).free)
    rows = sum(len(shard.keys) for shard in missing)
    print(
        f"{title}: the teacher's signal of {rows:,} rows is computed once: {size / _GIB:,.2f} GiB in {len(missing)} "
        f"shards ({len(shards) - len(missing)} are there) in {store.folder}",
        flush=True,
    )
    if size > free:
        raise TutelageError(
            f"{store.folder} has {free / _GIB:,.1f} GiB free, and the teacher's signal takes {size / _GIB:,.1f}: free "
            "some space, choose another place with --runs, or leave out `signal.cache`"
        )


class CachedSource:
    """Answers from a store; what is not there (the student's own responses) from `live`, if there is one."""

    def __init__(self, store: ShardStore, name: str, live: Source | None) -> None:
        self.store, self.name, self.live = store, name, live
        self.ahead = 2 if live is None else live.ahead

    def head(self) -> Head | None:
        """The teacher's output layer."""
        return self.store.head()

    def answer(self, question: Question) -> Answer:
        """Hidden states or likeliest tokens, in CPU memory."""
        parts = question.parts()
        keys = [part.key() for part in parts]
        absent = [i for i, key in enumerate(keys) if key not in self.store.places]
        fresh: dict[int, Answer] = {}
        if absent:
            if self.live is None:
                raise TutelageError(f"{self.store.folder} lacks a row that is trained on: run the same command again")
            asked = [parts[i] for i in absent]
            found = split(self.live.answer(joined(asked)), [len(part.predict) for part in asked])
            fresh = {i: self._kept(answer) for i, answer in zip(absent, found, strict=True)}
        return concatenated([fresh[i] if i in fresh else self.store.read(key) for i, key in enumerate(keys)])

    def _kept(self, answer: Answer) -> Answer:
        """A live answer as if it had been on disk."""
        return moved(answer.to(self.store.form.dtype) if isinstance(answer, torch.Tensor) else answer, _CPU)
