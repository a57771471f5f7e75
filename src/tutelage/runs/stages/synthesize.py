"""The `synthesize` run: from gold rows, evaluation texts and models to new rows and the page that shows them."""

from __future__ import annotations

import sys
from typing import Any

from tutelage.common.errors import TutelageError
from tutelage.common.progress import progress
from tutelage.common.types import Conversation
from tutelage.data.dataset import load_dataset
from tutelage.evaluation.benchmarks import benchmark
from tutelage.evaluation.benchmarks.data import data_folder
from tutelage.models.load import LoadedModel
from tutelage.recipe.sections import SamplingConfig
from tutelage.recipe.stages import SynthesizeStage
from tutelage.runs.run import Run
from tutelage.sampling.make_sampler import load_to_write, make_sampler
from tutelage.synthesis.blocks import SynthesisPlan
from tutelage.synthesis.filters import Filters
from tutelage.synthesis.page import build_page
from tutelage.synthesis.prompts import Demonstration, Frame, continuation_stops, find_frame, single_turns
from tutelage.synthesis.synthesis import Synthesis, Writer


def synthesize(run: Run) -> dict[str, Any]:
    """Make the rows of a synthesize stage in the run's folder: `accepted/`, `rejected/`, `sample.html`.

    Goes on from the blocks that are there already. Returns the content of result.json.
    """
    stage: SynthesizeStage = run.config
    frame, gold = _gold(run, stage)
    texts = _evaluation_texts(run, stage, frame)
    if not texts:
        print(
            f"{run.stage}: no evaluation data to check new rows against: name them under `tasks`, or as `avoid` in "
            "this stage",
            file=sys.stderr,
            flush=True,
        )
    filters = Filters(stage.filters, gold, texts)
    same = run.models["annotator"] == run.models["generator"]
    loaded = {"generator": _load(run, "generator", stage.inputs, same)}
    loaded["annotator"] = loaded["generator"] if same else _load(run, "annotator", stage.answers, same)
    plan = SynthesisPlan(
        rows=stage.rows,
        demonstrations=stage.demonstrations,
        form=stage.form,
        inputs=stage.inputs,
        answers=stage.answers,
        seed=run.seed,
        generator=_name(run, "generator", loaded["generator"]),
        annotator=_name(run, "annotator", loaded["annotator"]),
        min_acceptance=stage.min_acceptance,
    )
    stops = continuation_stops(loaded["generator"].tokenizer) if stage.form == "continuation" else ()
    writers = _writer(loaded["generator"], stage.inputs, stops), _writer(loaded["annotator"], stage.answers)
    with progress(run.stage, stage.rows, unit="rows") as bar:
        result = Synthesis(run.folder, plan, gold, frame, *writers, filters).run(bar)
    _, variety = build_page(run.folder, run.stage, gold, frame, result, run.seed)
    counted = {"evaluation_texts": len(texts), "variety": variety}
    return {"kind": "synthesize", "stage": run.stage, "seed": run.seed, **result, **counted}


def _gold(run: Run, stage: SynthesizeStage) -> tuple[Frame, list[Demonstration]]:
    """The frame (the words that all gold rows share), and the rows that can be shown, without it."""
    rows = gold_rows(run, stage)
    frame = find_frame(rows)
    shown = [Demonstration(row.id, frame.content(row.prompt[-1].content), row.response or "") for row in rows]
    return frame, shown


def gold_rows(run: Run, stage: SynthesizeStage) -> list[Conversation]:
    """The rows that can be shown to the generator. Raises TutelageError if they are fewer than are shown at once."""
    rows = single_turns(load_dataset(stage.gold, run.data[stage.gold], run.recipe_folder).conversations)
    if len(rows) < stage.demonstrations:
        raise TutelageError(
            f"stage `{run.stage}`: `demonstrations: {stage.demonstrations}` is more than data.{stage.gold} has rows "
            f"with one question and one answer ({len(rows)}): lower it, or give more gold rows"
        )
    return rows


def _evaluation_texts(run: Run, stage: SynthesizeStage, frame: Frame) -> list[str]:
    """Each turn, without the frame, and each reference of the recipe's evaluation data and the benchmarks to avoid."""
    texts: list[str] = []
    for name, config in run.data.items():
        if name == stage.gold:
            continue
        for row in load_dataset(name, config, run.recipe_folder, require_response=False).conversations:
            texts += [frame.content(message.content) for message in row.messages] + list(row.references)
    for name in stage.avoid:
        for item in benchmark(name).load(data_folder(None)):
            texts += [frame.content(item.prompt), *item.targets]
    return texts


def _load(run: Run, role: str, sampling: SamplingConfig, alone: bool) -> LoadedModel:
    return load_to_write(run.models[role], run.device, sampling.batch_size, models=1 if alone else 2)


def _writer(loaded: LoadedModel, sampling: SamplingConfig, stops: tuple[int, ...] = ()) -> Writer:
    sampler = make_sampler(loaded, sampling, more_ends=stops)
    return Writer(loaded.template, sampler, loaded.context or 1 << 30)


def _name(run: Run, role: str, loaded: LoadedModel) -> str:
    """The model's name and a fingerprint of its weights: for a model made by a stage, the stage's folder."""
    made = next((p for p in run.parents if str(p.folder / "model") == run.models[role].path), None)
    return made.folder.name if made is not None else f"{run.models[role].path}@{loaded.fingerprint}"
