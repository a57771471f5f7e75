"""Runs whose teacher is computed once equal those that compute it, and share what is kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from recipes_fixture import ROWS, Workshop, save_tiny
from teacher_servers import Served

from tutelage.common.errors import TutelageError
from tutelage.recipe.load import load_recipe
from tutelage.report.recipe.page import build_report
from tutelage.runs.planner import Planner
from tutelage.runs.ranks import Share
from tutelage.runs.run import Run
from tutelage.runs.run_recipe import run_recipe
from tutelage.runs.stages import teacher as stage
from tutelage.runs.worker import attempt
from tutelage.teachers.shards import ShardStore

Distil = Callable[..., Any]


def files_of(run: Run) -> list[Path]:
    return sorted((run.folder.parent / stage.CACHE).rglob("*.safetensors"))


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
def test_a_raised_method_version_computes_the_teacher_again(
    distil: Distil, unloaded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = distil("runs", 0.0, signal={"cache": "exact"})
    before = files_of(first.run)
    monkeypatch.setattr(stage, "METHOD_VERSION", stage.METHOD_VERSION + 1)
    more = distil("runs", 0.0, signal={"cache": "exact"}, divergence="forward_kl")
    assert len(unloaded) == 2
    assert len(files_of(more.run)) == 2 * len(before)


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
@pytest.mark.usefixtures("undrawn")
def test_a_recipe_on_two_ranks_shares_the_work_and_its_report_names_what_is_approximate(
    workshop: Workshop, warm_children: None
) -> None:
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
        (
            {"signal": {"cache": "float16"}},
            r"`float16` is none of exact, bfloat16, top_k: did you mean `bfloat16`",
        ),
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
