"""A teacher's signal that is computed once: the same runs, whole shards, and nothing damaged is believed."""

from __future__ import annotations

import fcntl
import multiprocessing
import resource
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from tutelage.common.errors import TutelageError
from tutelage.common.types import Head
from tutelage.teachers import cached
from tutelage.teachers.cached import CachedSource, fill
from tutelage.teachers.protocol import Question, joined, question_of_sequence
from tutelage.teachers.shards import Form, Shard, ShardStore
from tutelage.teachers.top_k import TopKSource

Distil = Callable[..., Any]
WIDTH = 8
FORM = Form(torch.float32, WIDTH)


class Counting:
    """A source whose hidden states are hashes of the tokens read; it counts its questions."""

    name, ahead = "counting", 0

    def __init__(self, fail_at: int | None = None) -> None:
        self.asked, self.fail_at = 0, fail_at

    def head(self) -> Head:
        return Head(torch.eye(WIDTH), None, 2.0, 30.0)

    def answer(self, question: Question) -> torch.Tensor:
        self.asked += 1
        if self.asked == self.fail_at:
            raise KeyboardInterrupt
        sums = [part.ids.double().cumsum(0)[part.predict] for part in question.parts()]
        return torch.cat(sums)[:, None].add(torch.arange(WIDTH)).sin().float()


def questions(count: int = 12, seed: int = 0) -> list[Question]:
    return [question_of_sequence(one) for one in tiny.sequences([9 + i % 4 for i in range(count)], seed=seed)]


def planned(store: ShardStore, asked: list[Question], rows: int = 3) -> list[Shard]:
    return store.plan([asked], rows * 8 * store.form.position_bytes)


def store_in(folder: Path, teacher: str = "teacher") -> ShardStore:
    return ShardStore(folder, teacher, FORM)


def test_what_is_read_is_what_was_computed(tmp_path: Path) -> None:
    asked, source = questions(), Counting()
    store = store_in(tmp_path)
    wanted = planned(store, asked)
    assert len(wanted) > 3
    fill(store, wanted, lambda: source, "test")
    count = source.asked
    again = store_in(tmp_path)
    fill(again, planned(again, asked), lambda: pytest.fail("asked again"), "test")
    cached = CachedSource(again, "counting", None)
    order = [asked[i] for i in (5, 0, 11, 5)]
    assert torch.equal(cached.answer(joined(order)), Counting().answer(joined(order)))  # type: ignore[arg-type]
    assert count == len(wanted)
    head = cached.head()
    assert head is not None
    assert (torch.equal(head.weight, torch.eye(WIDTH)), head.scale, head.softcap) == (True, 2.0, 30.0)
    other = questions(2, seed=9)
    with pytest.raises(TutelageError, match="lacks a row"):
        cached.answer(other[0])
    mixed = CachedSource(again, "counting", live := Counting())
    both = joined([other[0], asked[3], other[1]])
    assert torch.equal(mixed.answer(both), Counting().answer(both))  # type: ignore[arg-type]
    assert live.asked == 1


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each copy to the CPU, whether it is whole when it is given. From a GPU, one that does not wait gives memory
    that is still being written."""
    found, to = list[bool](), torch.Tensor.to

    def recorded(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if torch.device("cpu") in args:
            found.append(not kwargs.get("non_blocking"))
        return to(self, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "to", recorded)
    return found


@pytest.mark.parametrize("k", [None, 3])
def test_a_live_answer_is_in_cpu_memory_when_it_is_joined(tmp_path: Path, waits: list[bool], k: int | None) -> None:
    live: Any = Counting() if k is None else TopKSource(Counting(), k)
    store = ShardStore(tmp_path, "teacher", Form(torch.float32, WIDTH, k))
    CachedSource(store, "counting", live).answer(questions(1)[0])
    assert waits
    assert all(waits)


def test_so_is_a_micro_batch_that_is_copied_there(waits: list[bool]) -> None:
    questions(1)[0].batch(padded=True).to(torch.device("cpu"))
    assert waits
    assert all(waits)


@pytest.mark.parametrize("k", [None, 3])
def test_shards_are_as_large_as_was_said(tmp_path: Path, k: int | None) -> None:
    asked = questions()
    store = ShardStore(tmp_path, "teacher", Form(torch.bfloat16, WIDTH, k))
    source = Counting() if k is None else TopKSource(Counting(), k)
    (shard,) = wanted = store.plan([asked])
    fill(store, wanted, lambda: source, "test")
    size = (store.folder / f"{shard.name}.safetensors").stat().st_size
    assert 0 < size - shard.positions * store.form.position_bytes < 300  # the header
    if k is not None:
        expected = source.answer(joined(asked))
        got = CachedSource(store, "counting", None).answer(joined(asked))
        assert all(torch.equal(a, b) for a, b in zip(vars(got).values(), vars(expected).values(), strict=True))


def test_rows_are_shared_by_runs_whose_sections_contain_them(tmp_path: Path) -> None:
    asked, more, source = questions(), questions(5, seed=4), Counting()
    store = store_in(tmp_path)
    fill(store, planned(store, asked), lambda: source, "gold")
    before = source.asked
    mixture = store_in(tmp_path)
    wanted = mixture.plan([asked, more, asked[:2]], 3 * 8 * FORM.position_bytes)
    fill(mixture, wanted, lambda: source, "mixture")
    assert source.asked - before == len(mixture.plan([more], 3 * 8 * FORM.position_bytes))


def test_a_run_that_is_cut_goes_on_shard_by_shard(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = questions()
    store = store_in(tmp_path)
    wanted = planned(store, asked)
    with pytest.raises(KeyboardInterrupt):
        fill(store, wanted, lambda: Counting(fail_at=3), "test")
    (store.folder / f".{wanted[2].name}.safetensors.x.partial").write_bytes(b"begun")
    again, source = store_in(tmp_path), Counting()
    fill(again, planned(again, asked), lambda: source, "test")
    assert source.asked == len(wanted) - 2
    assert not list(store.folder.glob(".*"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("test: the teacher's signal of 12 rows is computed once: 0.00 GiB in ")
    assert f"({2} are there)" in lines[1]


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-5])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)


def flip_line(file: Path) -> None:
    flip(file.with_suffix(".json"))


DAMAGE = {"cut": cut, "flipped": flip, "gone": Path.unlink, "line flipped": flip_line}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_shard_is_said_and_computed_again(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "hashes"))
    asked, source = questions(), Counting()
    store = store_in(tmp_path)
    wanted = planned(store, asked)
    fill(store, wanted, lambda: source, "test")
    capsys.readouterr()
    before, file = source.asked, store.folder / f"{wanted[1].name}.safetensors"
    DAMAGE[kind](file)
    again = store_in(tmp_path)
    fill(again, planned(again, asked), lambda: source, "test")
    assert source.asked == before + 1
    assert f"{file} is damaged: computed again\n" in capsys.readouterr().out
    found = CachedSource(again, "counting", None).answer(joined(asked))
    assert torch.equal(found, Counting().answer(joined(asked)))  # type: ignore[arg-type]


def test_another_teachers_shard_is_said_and_computed_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked, source = questions(), Counting()
    mine, other = store_in(tmp_path), store_in(tmp_path, "other")
    fill(other, planned(other, asked), lambda: Counting(), "test")
    other.folder.rename(mine.folder)
    capsys.readouterr()
    fill(mine, planned(mine, asked), lambda: source, "test")
    assert source.asked == len(planned(mine, asked))
    said = capsys.readouterr().out
    assert said.count("is another teacher's: computed again") == source.asked + 1  # and its head
    first, second = planned(mine, asked)[:2]
    for suffix in (".safetensors", ".json"):  # a shard in another's place
        (mine.folder / f"{first.name}{suffix}").write_bytes((mine.folder / f"{second.name}{suffix}").read_bytes())
    again = store_in(tmp_path)
    fill(again, planned(again, asked), lambda: source, "test")
    assert "holds other rows: computed again" in capsys.readouterr().out
    found = CachedSource(again, "counting", None).answer(joined(asked))
    assert torch.equal(found, Counting().answer(joined(asked)))  # type: ignore[arg-type]


def _fill_two(folder: Path, start: Any, counts: Any) -> None:
    source, store = Counting(), store_in(folder)
    start.wait()
    fill(store, planned(store, questions(40)), lambda: source, "test")
    counts.put(source.asked)


@pytest.mark.slow
def test_two_at_once_compute_each_shard_once(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    start, counts = fork.Barrier(2), fork.Queue()
    both = [fork.Process(target=_fill_two, args=(tmp_path, start, counts)) for _ in range(2)]
    for one in both:
        one.start()
    asked = [counts.get(timeout=120) for _ in both]
    for one in both:
        one.join()
    store = store_in(tmp_path)
    assert sum(asked) == len(planned(store, questions(40)))
    assert all(store.has(shard) for shard in planned(store, questions(40)))
    assert not list(store.folder.glob(".*.partial"))


def test_that_another_process_is_waited_for_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store, source = store_in(tmp_path), Counting()
    wanted = planned(store, questions())
    store.folder.mkdir(parents=True)
    held, waited = (store.folder / f".{wanted[0].name}.lock").open("w"), list[float]()
    fcntl.flock(held, fcntl.LOCK_EX)

    def wait(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            held.close()

    monkeypatch.setattr("time.sleep", wait)
    fill(store, wanted, lambda: source, "test")
    said = capsys.readouterr().out
    assert said.count("test: 1 shard is computed by other processes: waiting") == 1
    assert store.has(wanted[0])


def test_who_dies_with_a_shard_leaves_it_to_others(tmp_path: Path) -> None:
    store, source = store_in(tmp_path), Counting()
    wanted = planned(store, questions())
    store.folder.mkdir(parents=True)
    lock = f"import fcntl, time; f = open({str(store.folder / f'.{wanted[0].name}.lock')!r}, 'w'); "
    holder = subprocess.Popen(
        ["python3", "-c", lock + "fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); time.sleep(600)"],
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"

    class Killing(Counting):
        def answer(self, question: Question) -> torch.Tensor:
            if self.asked == len(wanted) - 2:  # all others are done
                holder.kill()
                holder.wait()
            return super().answer(question)

    source = Killing()
    fill(store, wanted, lambda: source, "test")
    assert source.asked == len(wanted)


def test_a_full_disk_is_one_line_and_the_cut_shard_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, source = questions(), Counting()
    store = store_in(tmp_path)
    wanted = planned(store, asked, rows=6)
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, before[1]))  # the head fits, no shard does
    try:
        with pytest.raises(TutelageError, match=r"cannot be written: File too large; free some space") as error:
            fill(store, wanted, lambda: source, "test")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert "\n" not in str(error.value)
    assert not list(store.folder.glob(".*.partial"))
    again = store_in(tmp_path)
    fill(again, planned(again, asked, rows=6), lambda: source, "test")
    assert source.asked == 1 + len(wanted)
    monkeypatch.setattr(cached.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10})())
    with pytest.raises(TutelageError, match=r"GiB free, and the teacher's signal takes .*: free some space"):
        fill(store_in(tmp_path, "another"), wanted, lambda: source, "test")
