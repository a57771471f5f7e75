"""What the functions of `import tutelage` return: frozen values that are shown as tables and give pandas frames."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tutelage.common.errors import TutelageError
from tutelage.common.time_left import about

SHOWN_STEPS, ROLES = 10, ("system", "user", "assistant", "tool")


class Shown:
    """A result as a table: text in a terminal, HTML in a notebook, a pandas frame on request."""

    def _records(self) -> list[dict[str, Any]]:
        raise NotImplementedError

    def _table(self) -> tuple[Sequence[str], list[Sequence[str]]]:
        raise NotImplementedError

    def _lines(self) -> list[str]:
        """Sentences and paths below the table."""
        return []

    def frame(self) -> Any:
        """The numbers in full as a pandas DataFrame, one row per line of the table; None where there is no number.

        Raises TutelageError where pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise TutelageError("a frame needs pandas: pip install pandas") from None
        return pandas.DataFrame(self._records())

    def __repr__(self) -> str:
        head, rows = self._table()
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *rows)]
        return "\n".join([line.rstrip() for line in lines] + ["", *self._lines()]).rstrip()

    __str__ = __repr__

    def _repr_html_(self) -> str:
        head, rows = self._table()
        cells = ("".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows)
        heads = "".join(f"<th>{html.escape(name)}</th>" for name in head)
        body = "".join(f"<tr>{row}</tr>" for row in cells)
        notes = "".join(f"<p>{html.escape(line)}</p>" for line in self._lines())
        return f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>{notes}"


@dataclass(frozen=True)
class Score:
    """One metric of one model on one task. Numbers are 0 to 100, or as measured where lower is better (losses)."""

    model: str  # the stage, or base, teacher, lead_1; of `evaluate`, the model's name
    task: str
    metric: str
    value: float | None  # mean over examples and seeds; None: unscored
    stderr: float | None
    examples: int  # per seed
    seeds: int = 1
    difference: float | None = None  # to the reference row
    low: float | None = None  # ends of its 95 % interval
    high: float | None = None
    p_value: float | None = None  # two-sided, paired bootstrap; not corrected for the number of comparisons


def number(value: float) -> float | None:
    """The value; None for nan."""
    return None if math.isnan(value) else value


def _signed(value: float | None, digits: int = 2) -> str:
    if value is None:
        return ""
    text = f"{value:+.{digits}f}".replace("-", "−")
    return text if text.strip("+−0.") else text[1:]


def _score(score: Score) -> str:
    from tutelage.evaluation.compare import edge_text

    if score.value is None:
        return "unscored"
    plain = f"{score.value:.2f}" if score.stderr is None else f"{score.value:.2f} ± {score.stderr:.2f}"
    return edge_text(score.metric, score.value, score.stderr, score.examples) or plain


def _p(value: float | None) -> str:
    return "" if value is None else "<0.001" if value < 0.001 else f"{value:.3f}"


@dataclass(frozen=True)
class Model:
    """A trained model.

    Example: `result.models["gkd"].generate("What is 2 and 2?", max_new_tokens=32)`.
    """

    name: str
    folder: Path  # weights (safetensors), tokenizer, chat template, generation config, model card
    stage: str
    seed: int | None = None  # None: one model serves all seeds

    @cached_property
    def _speaker(self) -> Any:
        from tutelage.delivery.chat import ChatSettings, Speaker
        from tutelage.delivery.find_model import find_model

        return Speaker(find_model(str(self.folder)), ChatSettings())

    def generate(
        self,
        prompt: str | Sequence[Mapping[str, str]],
        *,
        system: str | None = None,
        max_new_tokens: int | None = None,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> str:
        """The model's answer, in its chat template. The first call loads the model, which then stays loaded.

        prompt: a question, or the turns of a conversation as `{"role": …, "content": …}`, the last one the user's.
        system: a system turn before it; by default that of all training rows. max_new_tokens: the longest answer; None:
        the recipe's, else the generation config's, else 256. temperature: 0 for the likeliest token each time. seed: of
        the draws. Raises TutelageError for wrong turns, or more of them than the model reads.
        """
        from tutelage.common.types import Message
        from tutelage.delivery.chat import ChatSettings
        from tutelage.delivery.find_model import find_model, system_of

        written: Sequence[Any] = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [*prompt]
        for turn in written:
            if not isinstance(turn, Mapping) or turn.get("role") not in ROLES or "content" not in turn:
                raise TutelageError(
                    f'prompt: a turn is {{"role": "user", "content": "…"}}; roles are {", ".join(ROLES)}'
                )
        if not written or written[-1]["role"] != "user":
            raise TutelageError("prompt: the last turn must be the user's")
        turns = [Message(turn["role"], turn["content"]) for turn in written]
        self._speaker.settings = ChatSettings(temperature, max_new_tokens, seed)
        if system is None and turns[0].role != "system":
            system = system_of(find_model(str(self.folder)))
        self._speaker.begin(system or "")
        self._speaker.turns += turns[:-1]
        return self._speaker.answer(turns[-1].content)

    def __str__(self) -> str:
        return f"{self.name}: {self.folder}"


class Models(Mapping[str, Model]):
    """The models of a result by stage; with several seeds `<stage>-s<seed>`."""

    def __init__(self, models: Mapping[str, Model]) -> None:
        self._models = dict(models)

    def __getitem__(self, name: str) -> Model:
        if name not in self._models:
            raise KeyError(f"no model `{name}`; there are {', '.join(self._models) or 'none'}")
        return self._models[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._models)

    def __len__(self) -> int:
        return len(self._models)

    def __repr__(self) -> str:
        return "\n".join(f"{name}: {model.folder}" for name, model in self._models.items())


@dataclass(frozen=True, repr=False)
class RunResult(Shown):
    """What a recipe gave; `run` and `distill` return it.

    `print(result)`: scores, verdict, paths. `result.frame()`: every field of `result.scores` as a column.
    `result.models["gkd"].generate("…")` asks a model.
    """

    name: str
    verdict: str  # the report's sentences: better, worse, or no difference shown; which model to use
    scores: tuple[Score, ...]
    reference: str | None  # the model that the others are compared with
    models: Models
    page: Path  # report.html; its tables and figures lie beside it
    recipe: Path | None  # the recipe's file
    runs: Path  # the folder of all runs: each has config, metrics, examples
    notes: tuple[str, ...] = ()

    def _records(self) -> list[dict[str, Any]]:
        return [asdict(score) for score in self.scores]

    def _table(self) -> tuple[Sequence[str], list[Sequence[str]]]:
        against = f"− {self.reference}" if self.reference else "difference"
        rows: list[Sequence[str]] = []
        for one in self.scores:
            interval = "" if one.low is None else f"{_signed(one.low)} to {_signed(one.high)}"
            what = (one.task, one.model, one.metric, _score(one))
            difference = "reference" if one.model == self.reference else _signed(one.difference)
            rows.append((*what, difference, interval, _p(one.p_value), str(one.examples)))
        return ("task", "model", "metric", "score", against, "95 % interval", "p", "n"), rows

    def _lines(self) -> list[str]:
        models = [f"Model {name}: {model.folder}" for name, model in self.models.items()]
        return [self.verdict, f"Report: {self.page}", *models, *(f"note: {note}" for note in self.notes)]


@dataclass(frozen=True, repr=False)
class Evaluation(Shown):
    """The scores of one model; `evaluate` returns it, and `compare` takes it."""

    model: str
    scores: tuple[Score, ...]
    folders: Mapping[str, Path] = field(hash=False)  # by task; examples.jsonl there has every reply and its score
    notes: tuple[str, ...] = ()

    def _records(self) -> list[dict[str, Any]]:
        names = ("model", "task", "metric", "value", "stderr", "examples")
        return [{name: getattr(score, name) for name in names} for score in self.scores]

    def _table(self) -> tuple[Sequence[str], list[Sequence[str]]]:
        rows = [(one.model, one.task, one.metric, _score(one), str(one.examples)) for one in self.scores]
        return ("model", "task", "metric", "score", "n"), [*rows]

    def _lines(self) -> list[str]:
        return [f"note: {note}" for note in self.notes]


@dataclass(frozen=True)
class Difference:
    """One metric of two evaluations of the same examples, a − b: 0 to 100, losses in nats; None where undefined."""

    task: str
    metric: str
    a: float | None
    b: float | None
    difference: float | None
    low: float | None  # ends of the 95 % interval
    high: float | None
    p_value: float | None  # two-sided, paired bootstrap
    examples: int


@dataclass(frozen=True, repr=False)
class Comparison(Shown):
    """By how much two evaluations differ; `compare` returns it."""

    a: str
    b: str
    differences: tuple[Difference, ...]
    notes: tuple[str, ...] = ()

    def _records(self) -> list[dict[str, Any]]:
        return [asdict(one) for one in self.differences]

    def _table(self) -> tuple[Sequence[str], list[Sequence[str]]]:
        from tutelage.evaluation.compare import digits_of

        rows: list[Sequence[str]] = []
        for one in self.differences:
            digits, count = digits_of(one.metric), str(one.examples)
            difference, low, high = (_signed(value, digits) for value in (one.difference, one.low, one.high))
            sides = ("unscored" if value is None else f"{value:.{digits}f}" for value in (one.a, one.b))
            rows.append((one.task, one.metric, *sides, difference, low and f"{low} to {high}", _p(one.p_value), count))
        return ("task", "metric", "a", "b", "a − b", "95 % interval", "p", "n"), rows

    def _lines(self) -> list[str]:
        return [f"a: {self.a}", f"b: {self.b}", *(f"note: {note}" for note in self.notes)]


@dataclass(frozen=True)
class PlannedRun:
    """One run of a plan."""

    stage: str
    kind: str
    seed: int
    done: bool
    hours: float | None  # on the plan's machine; None: the shape of a model is not known
    memory_gib: float | None  # per GPU
    folder: Path


@dataclass(frozen=True, repr=False)
class Plan(Shown):
    """What a recipe would do, and what stands in its way; `plan` returns it."""

    name: str
    machine: str  # that hours and memory are for, in words
    runs: tuple[PlannedRun, ...]  # in the order in which they can be done
    problems: tuple[str, ...]  # that stop `run` on this machine
    not_reused: tuple[str, ...] = ()  # why earlier runs of the same stages are not: what changed since

    def _records(self) -> list[dict[str, Any]]:
        return [asdict(run) for run in self.runs]

    def _table(self) -> tuple[Sequence[str], list[Sequence[str]]]:
        rows: list[Sequence[str]] = []
        for one in self.runs:
            texts = ["?" if n is None else f"{n:.1f}" for n in (one.hours and 60 * one.hours, one.memory_gib)]
            rows.append((one.stage, one.kind, str(one.seed), "done" if one.done else "to do", *texts))
        return ("run", "kind", "seed", "state", "minutes", "GiB"), rows

    def _lines(self) -> list[str]:
        left = [3600 * (run.hours or 0) for run in self.runs if not run.done]
        time = f", {about(sum(left))} on {self.machine}" if any(left) else ""
        first = f"{len(left)} of {len(self.runs)} runs to do{time}"
        return [first, *self.not_reused, *(f"problem: {text}" for text in self.problems)]


@dataclass(frozen=True)
class Gain:
    """What GKD adds to as much SFT again: points (0 to 100), or nats per token of held-out loss; more is better."""

    source: str  # `forecast`, or `pilot`: measured on dev rows after training on `rows` of the rows
    rows: int
    metric: str  # the metric's name, or `loss`
    value: float
    low: float  # ends of the 80 % interval
    high: float
    chance: float | None = None  # that it is above 0; None for a pilot


@dataclass(frozen=True, repr=False)
class Forecast(Shown):
    """Whether distilling will help, by how much and at what price; `forecast` returns it (docs/forecast.md)."""

    name: str
    choice: str  # distil, fine-tune only, take a stronger teacher, get more data or …, cannot be told
    why: str
    gain: Gain  # on the recipe's metric
    loss_gain: Gain
    pilots: tuple[Gain, ...]  # smallest first
    decided: tuple[str, ...]  # the signals that move the forecast most, the strongest first
    findings: tuple[str, ...]  # what it cannot know around, and what to do
    changes: tuple[str, ...]  # what would change the answer
    signals: Mapping[str, float] = field(hash=False)  # measured before any training, by name
    prices: Mapping[str, Mapping[str, float | None]] = field(hash=False)  # by arm: gpu_hours, dollars, seconds here
    stopped: str  # why no larger pilot was made
    informed: str  # by how many earlier situations
    page: Path  # forecast.html; forecast.json lies beside it

    def _records(self) -> list[dict[str, Any]]:
        return [asdict(one) for one in (*self.pilots, self.gain, self.loss_gain)]

    def _table(self) -> tuple[Sequence[str], list[Sequence[str]]]:
        rows: list[Sequence[str]] = []
        for one in (*self.pilots, self.gain, self.loss_gain):
            digits = 3 if one.metric == "loss" else 1
            value, low, high = (_signed(number, digits) for number in (one.value, one.low, one.high))
            chance = "" if one.chance is None else f"{100 * one.chance:.0f} %"
            rows.append((one.source, f"{one.rows:,}", one.metric, value, f"{low} to {high}", chance))
        return ("", "rows", "metric", "GKD − SFT again", "80 % interval", "above 0"), rows

    def _lines(self) -> list[str]:
        because = [f"because: {text}" for text in self.decided]
        prices = [f"{arm}: {_price(price)}" for arm, price in self.prices.items()]
        return [f"{self.choice}: {self.why}", *because, *self.findings, *prices, self.informed, f"Page: {self.page}"]


def _price(price: Mapping[str, float | None]) -> str:
    """Minutes here and GPU hours on one H100, as far as they are known."""
    seconds, hours = price["seconds"], price["gpu_hours"]
    here = [] if seconds is None else [f"{seconds / 60:.1f} min here"]
    return ", ".join([*here, *([] if hours is None else [f"{hours:.2g} GPU hours on an H100"])]) or "not known"


@dataclass(frozen=True, repr=False)
class TrainingResult(Shown):
    """How a training of `Trainer` went, step by step."""

    metrics: tuple[Mapping[str, Any], ...] = field(hash=False)  # per optimizer step: step, loss, learning_rate, …
    perplexity_before: float | None  # per response token of the validation rows; None without such rows
    perplexity_after: float | None
    rows: Mapping[str, Any] = field(hash=False)  # per data section: rows used, cut and left out

    def _records(self) -> list[dict[str, Any]]:
        return [dict(line) for line in self.metrics]

    def _table(self) -> tuple[Sequence[str], list[Sequence[str]]]:
        count, steps = len(self.metrics), range(SHOWN_STEPS)
        places = range(count) if count <= SHOWN_STEPS else [i * (count - 1) // (SHOWN_STEPS - 1) for i in steps]
        chosen = [self.metrics[i] for i in places]
        rows = [(str(one["step"]), f"{one['loss']:.4f}", f"{one['learning_rate']:.2e}") for one in chosen]
        return ("step", "loss", "learning rate"), [*rows]

    def _lines(self) -> list[str]:
        if self.perplexity_before is None or self.perplexity_after is None:
            return []
        return [f"Held-out perplexity: {self.perplexity_before:.3f} before, {self.perplexity_after:.3f} after"]
