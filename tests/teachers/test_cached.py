"""A teacher's signal that is computed once: the same runs, whole shards, and nothing damaged is believed."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from recipes_fixture import ROWS, Workshop, save_tiny
from teacher_servers import Served

from tutelage.common.errors import TutelageError
from tutelage.common.types import Head
from tutelage.recipe.load import load_recipe
from tutelage.report.recipe.page import build_report
from tutelage.runs.planner import Planner
from tutelage.runs.ranks import Share
from tutelage.runs.run import Run
from tutelage.runs.run_recipe import run_recipe
from tutelage.runs.stages import teacher as stage
from tutelage.runs.worker import attempt
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


# --- runs ---


def files_of(run: Run) -> list[Path]:
    return sorted((run.folder.parent / stage.CACHE).rglob("*.safetensors"))


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of teachers that runs load, weights and all."""
    loaded: list[str] = []
    real = stage.load_model
    monkeypatch.setattr(stage, "load_model", lambda config, *more: (loaded.append(config.path), real(config, *more))[1])
    return loaded


@pytest.mark.slow
@pytest.mark.parametrize("on_policy", [0.0, 0.5])
@pytest.mark.parametrize("form", ["exact", "bfloat16", "top_k"])
def test_runs_equal_those_that_compute(
    distil: Distil, workshop: Workshop, on_policy: float, form: str, unloaded: list[str]
) -> None:
    local = distil("local", on_policy)
    cached = distil("runs", on_policy, signal={"cache": form})
    if form == "exact":
        cached.equals(local)
    assert (cached.run.fingerprint == local.run.fingerprint) == (form == "exact")
    for mine, theirs in zip(cached.metrics[:1], local.metrics[:1], strict=True):  # before weights differ
        if form == "bfloat16":
            assert mine["loss"] == pytest.approx(theirs["loss"], rel=0.02)
        if form == "top_k":
            assert mine["loss"] <= theirs["loss"] + 1e-6 <= mine["loss"] + mine["loss_error_bound"] + 2e-6
    assert len(unloaded) == 2
    name = files_of(cached.run)[0].parent.name
    assert name.endswith({"exact": "-float32", "bfloat16": "-bfloat16", "top_k": "-top_20"}[form])
    # Another seed and a wider student ask the same; with λ = 0 no teacher is loaded for them.
    before = [(file, file.stat().st_mtime_ns) for file in files_of(cached.run)]
    more = distil("runs", on_policy, {"seeds": [0, 1]}, signal={"cache": form}, divergence="forward_kl")
    assert more.run.fingerprint != cached.run.fingerprint
    assert [(file, file.stat().st_mtime_ns) for file in files_of(more.run)] == before
    assert len(unloaded) == 2 + (on_policy > 0.0)


@pytest.mark.slow
def test_a_cache_filled_by_a_served_teacher_is_that_of_a_local_one(
    distil: Distil, served: Served, unloaded: list[str]
) -> None:
    local = distil("local", 0.5)
    asked = distil("runs", 0.5, signal={"served": served.url, "cache": "exact"})
    asked.equals(local)
    assert asked.run.fingerprint == local.run.fingerprint
    count = len(unloaded)
    again = distil("runs", 0.0, signal={"cache": "exact"})
    assert len(unloaded) == count
    again.equals(distil("local", 0.0))


@pytest.mark.slow
def test_students_that_end_turns_otherwise_share_the_teachers_shards(
    distil: Distil, workshop: Workshop, tiny_models: Path
) -> None:
    from chat_templates import CHATML, tokenizer

    other = tiny_models / "other-end"
    save_tiny(other, layers=2, seed=0, tokens=tokenizer(CHATML.replace("<|im_end|>", "<|endoftext|>")))
    changes = {"student__path": str(other)}
    try:
        local = distil("local", 0.5, changes)
    except TutelageError:
        pytest.skip("the tiny tokenizer has one end of turn")
    distil("runs", 0.5, changes, signal={"cache": "exact"}).equals(local, 1e-5)


@pytest.mark.slow
def test_a_recipe_on_two_ranks_shares_the_work_and_its_report_names_what_is_approximate(
    workshop: Workshop, python: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHON_EXEC", python)  # with which the launcher starts ranks
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    gkd = {"name": "gkd", "kind": "distill", "student": "base", "data": "train", "on_policy": 0.0}
    gkd |= {"signal": {"cache": "top_k", "top_k": 5}, "training": {"max_steps": 2}}
    scores = {"name": "scores", "kind": "evaluate", "models": ["gkd"], "tasks": ["test"]}
    config = load_recipe(workshop.write(stages=[gkd, scores]))
    run = Planner(config, workshop.folder, workshop.runs).stage_run("gkd", 0)
    assert attempt(run, share=Share(ranks=2)) is None
    assert len(list((workshop.runs / stage.CACHE).rglob("*.json"))) == 1  # one shard, and no head
    results = run_recipe(config, workshop.folder, workshop.runs)
    (notice,) = [one for one in results.notices if "approximate" in one]
    assert notice.startswith("gkd (seed 0) had of its teacher the 5 likeliest tokens")
    page = build_report(results, workshop.folder / "page").read_text()
    assert f"{notice}." in page.replace("&#39;", "'")


@pytest.mark.slow
def test_validation_and_mixtures_are_kept_too(distil: Distil, workshop: Workshop, unloaded: list[str]) -> None:
    workshop.rows("more", ROWS[3:9])
    changes = {"data__more": {"path": "more.jsonl"}}
    training = {"max_steps": 3, "epochs": 3, "validation": "test", "evaluate_every": 1, "tokens_per_micro_batch": 40}
    options = {"data": ["train", "more"], "training": training}
    local = distil("local", 0.0, changes, **options)
    distil("runs", 0.0, changes, signal={"cache": "exact"}, **options).equals(local)
    assert len(unloaded) == 2


@pytest.mark.slow
def test_killed_while_it_computes_a_run_goes_on(
    plan: Callable[..., Run], distil: Distil, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ShardStore.plan, "__defaults__", (2000,))
    real, written = ShardStore.write, [0]

    def write(self: ShardStore, *arguments: Any) -> None:
        written[0] += 1
        if written[0] == 3:
            raise KeyboardInterrupt
        real(self, *arguments)

    monkeypatch.setattr(ShardStore, "write", write)
    with pytest.raises(KeyboardInterrupt):
        distil("runs", 0.0, signal={"cache": "exact"})
    assert len(files_of(plan("runs", 0.0))) == 3  # and the head
    distil("runs", 0.0, signal={"cache": "exact"}).equals(distil("local", 0.0))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"on_policy": 1.0, "signal": {"cache": "exact"}}, r"`on_policy: 1.0` uses none: lower it, or remove `cache`"),
        ({"signal": {"cache": "top_k"}, "divergence": "reverse_kl"}, r"bound no KL\(S‖T\)"),
        ({"signal": {"cache": "top_k"}, "beta": 1.0}, r"bound no KL\(S‖T\)"),
        ({"signal": {"openai": "http://x/v1"}, "temperature": 2.0}, r"no temperature but 1"),
        ({"signal": {"cahce": "exact"}}, r"signal: unknown key `cahce`: did you mean `cache`\?"),
        ({"signal": {"cache": "float16"}}, r"signal.cache: Input should be 'exact', 'bfloat16' or 'top_k'"),
        ({"signal": {"served": "http://a", "openai": "http://b"}}, r"two teachers: give one of them"),
        ({"signal": {"openai": "http://b", "cache": "exact"}}, r"gives no hidden states to keep: `cache: top_k`"),
        ({"signal": {"model": "m"}}, r"are of an `openai` endpoint"),
        ({"signal": {"top_k": 5}}, r"`top_k` needs `openai` or `cache: top_k`"),
        ({"signal": {"served": "localhost:8700"}}, r"`localhost:8700` is not an address such as"),
        ({"signal": {"served": "http://me:word@host"}}, r"an address with a password"),
        ({"signal": {"cache": "exact"}, "training": {"shard": True}}, r"needs a served teacher \(`signal.served`\)"),
    ],
)
def test_what_does_not_fit_is_one_line(plan: Callable[..., Run], keys: dict[str, Any], message: str) -> None:
    with pytest.raises(TutelageError, match=message) as error:
        plan(**keys)
    assert "\n" not in str(error.value)
