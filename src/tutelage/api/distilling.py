"""`distill`: the README's recipe from names or rows, without a file to write."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tutelage.api.results import RunResult
from tutelage.api.rows import rows_path
from tutelage.api.running import run
from tutelage.api.settings import section, sort_settings
from tutelage.common.errors import TutelageError

TEST_ROWS = 100  # by default, or a fifth of the rows


def distill(
    teacher: str | os.PathLike[str] | Mapping[str, Any],
    student: str | os.PathLike[str] | Mapping[str, Any],
    data: Any,
    *,
    test: Any = None,
    name: str = "distill",
    teacher_sft: bool = True,
    seeds: int | Sequence[int] = 0,
    metrics: str | Sequence[str] = ("rouge_l", "exact_match"),
    max_new_tokens: int = 512,
    runs: str | os.PathLike[str] = "runs",
    device: str = "auto",
    jobs: int = 1,
    text: bool = True,
    **settings: Any,
) -> RunResult:
    """Train a small model on your rows, alone and with the help of a large one, and measure whether the help was worth
    it.

    Five things are done: the teacher is fine-tuned on the rows (SFT), the student is fine-tuned on them
    (`student_sft`), then as much again (`sft_again`, the fair opponent), or instead with GKD (`gkd`: the student
    matches the teacher's probabilities on the rows and on its own answers), and all are scored on the same test rows.
    The same call again reuses what is done, and one that was stopped goes on. The recipe that was run is written to
    `<runs>/<name>.yaml`, for `tutelage run` or to be changed by hand.

    teacher, student: a hub id, a model folder, a GGUF file or `package:NAME`; or a dict with the keys of a recipe's
        model section, `{"path": …, "revision": …}`. Both must use the same tokens.
    data: the rows: a file (.jsonl, .csv, .parquet, …), a folder, a glob or a hub data set; or rows in memory: a list of
        dicts, a pandas frame or a `datasets.Dataset`, which is written once to `<runs>/data`. A row is `{"prompt": …,
        "completion": …}` or `{"messages": [{"role": …, "content": …}, …]}`; for other columns see `settings`.
    test: rows to score on, in the same form; or how many of `data` to keep apart for it. Default: 100, of fewer than
        500 rows a fifth. They are the first of an order that depends on each row's question alone,
        so that they stay the test rows when others are added or removed; rows that ask the same stay together.
    name: of the recipe; models become `models/<name>-gkd` and so on, beside `runs`.
    teacher_sft: whether the teacher is fine-tuned first. False: it teaches as it is.
    seeds: one seed, or several: everything but the teacher is then trained once per seed, and errors cover that.
    metrics: what answers are scored by; the first is what the verdict is about (docs/evaluation.md).
    max_new_tokens: the longest answer, of tests and of the student's own answers in GKD.
    runs: the folder of all runs. device: `auto`, `cpu` or `cuda`. jobs: runs at the same time, each in its own process
        (a script then needs `if __name__ == "__main__":`). text: whether the report shows texts of data and models.
    settings: keys of a recipe (docs/recipe.md). Of `training`, for all arms: `learning_rate` (5e-6), `epochs` (2),
        `batch_size` (here 16), `max_length` in tokens (here 1024), `max_steps`, `tokens_per_micro_batch`, …. Of GKD:
        `on_policy` (λ = 0.5), `beta` (0.5), `divergence`, `temperature`, `ce_weight`, `sampling`, `signal`. Of the
        data: `prompt` and `completion`, templates such as `"Summarize:\\n{text}"`, `messages`, `system`, ….

    Returns a `RunResult`: `verdict` in words, `scores` (0 to 100, with standard errors, and differences to `sft_again`
    with 95 % intervals), `models["gkd"]` with `folder` and `generate("…")`, `page` (the report), `frame()`.

    Raises TutelageError, one line, for an unknown setting (with the nearest known one), a missing file, data without
    usable rows, models that cannot be loaded or do not share their tokens, and a run that fails.

    Example:
        >>> rows = [{"prompt": f"{a} + {b} =", "completion": str(a + b)} for a in range(20) for b in range(20)]
        >>> teacher, student = "HuggingFaceTB/SmolLM2-360M-Instruct", "HuggingFaceTB/SmolLM2-135M-Instruct"
        >>> result = tutelage.distill(teacher, student, rows, name="sums", learning_rate=1e-4, max_new_tokens=8)
        >>> print(result.verdict)
        >>> result.models["gkd"].generate("7 + 8 =")
    """
    from tutelage.recipe.load import recipe_from

    of_data, of_training, of_gkd = sort_settings(settings)
    root = Path(runs)
    content: dict[str, Any] = {
        "name": name,
        "seeds": [seeds] if isinstance(seeds, int) else list(seeds),
        "device": device,
        "data": _data(data, test, of_data, root / "data"),
        "teacher": _model(teacher),
        "student": _model(student),
        "training": {"batch_size": 16, "max_length": 1024, **of_training},
        "tasks": {
            "test": {
                "data": "test",
                "metrics": [metrics] if isinstance(metrics, str) else list(metrics),
                "sampling": {"temperature": 0.0, "max_new_tokens": max_new_tokens},
            }
        },
        "stages": _stages(teacher_sft, of_gkd, max_new_tokens),
    }
    recipe_from(content, Path("distill"))
    file = root / f"{name}.yaml"
    note = _write(file, content)
    result = run(file, runs=root, jobs=jobs, text=text)
    return replace(result, notes=(*result.notes, note)) if note else result


def _model(given: str | os.PathLike[str] | Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a model section; the path of a local model is absolute."""
    content = dict(given) if isinstance(given, Mapping) else {"path": os.fspath(given)}
    path = os.path.expanduser(str(content.get("path", "")))
    return content | ({"path": os.path.abspath(path)} if os.path.exists(path) else {})


def _data(rows: Any, test: Any, keys: Mapping[str, Any], folder: Path) -> dict[str, dict[str, Any]]:
    """The data sections `train` and `test`. Raises TutelageError for rows that cannot be read, or are too few."""
    from tutelage.data.dataset import load_dataset, question_slices
    from tutelage.recipe.sections import DataConfig

    train = {"path": rows_path(rows, folder, "data"), **keys}
    found = load_dataset("train", section(DataConfig, train), Path.cwd()).conversations
    train["path"] = _from_runs(train["path"], folder)
    if test is not None and not isinstance(test, int):
        return {"train": train, "test": {"path": _from_runs(rows_path(test, folder, "test"), folder), **keys}}
    count = len(found)
    size = max(1, min(TEST_ROWS, count // 5)) if test is None else int(test)
    if not 0 < size < count:
        raise TutelageError(f"test: {size} of {count} usable rows leave none to train or to test on: give more rows")
    train |= {} if question_slices(found, [size]) is None else {"order": "question"}
    return {"train": {**train, "skip": size}, "test": {**train, "size": size}}


def _from_runs(path: str, folder: Path) -> str:
    """A path in the folder of rows as the recipe beside that folder writes it, so that the two can be moved."""
    return f"{folder.name}/{os.path.basename(path)}" if os.path.dirname(path) == os.path.abspath(folder) else path


def _stages(teacher_sft: bool, gkd: Mapping[str, Any], max_new_tokens: int) -> list[dict[str, Any]]:
    """The arms of the README's first recipe."""
    teacher = "teacher_sft" if teacher_sft else "teacher"
    sampling = {"max_new_tokens": max_new_tokens, **gkd.get("sampling", {})}
    first = {"name": "teacher_sft", "kind": "sft", "student": "teacher", "data": "train", "shared": True}
    return [
        *([first] if teacher_sft else []),
        {"name": "student_sft", "kind": "sft", "data": "train"},
        {"name": "sft_again", "kind": "sft", "student": "student_sft", "data": "train"},
        {
            **{"name": "gkd", "kind": "distill", "student": "student_sft", "teacher": teacher, "data": "train"},
            **{**gkd, "sampling": sampling},
        },
        {
            **{"name": "scores", "kind": "evaluate", "tasks": ["test"]},
            "models": [teacher, "student_sft", "sft_again", "gkd"],
        },
    ]


def _write(file: Path, content: Mapping[str, Any]) -> str:
    """Write the recipe; one with other settings that is there is kept beside it, which the returned note says."""
    import yaml

    from tutelage.common.files import write_atomically
    from tutelage.common.hashing import fingerprint

    head = "# Written by tutelage.distill. `tutelage run` runs it again; keys are in docs/recipe.md.\n"
    text, note = head + yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True), ""
    if file.is_file() and (before := file.read_text(encoding="utf-8")) != text:
        kept = file.with_name(f"{file.stem}-{fingerprint(before)}.yaml")
        write_atomically(kept, before)
        note = (
            f"{file} had other settings, which are kept as {kept}: report and models of that name are now this call's; "
            "another `name` keeps both"
        )
    write_atomically(file, text)
    return note
