"""The model card: where a model comes from, how it was trained, what it scores, and what was not looked at.

It names local files and folders without the folders that they are in, since it goes where the model goes.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Sequence
from typing import Any

import yaml

from tutelage.common import run_folder
from tutelage.delivery.licence import licence_of
from tutelage.models.files import is_local
from tutelage.recipe.sections import ModelConfig
from tutelage.report.labels import KIND_NAMES, metric_label
from tutelage.report.numbers import edge_note, score_text
from tutelage.report.recipe.savings import size_text, teacher_of
from tutelage.report.recipe.tables import TableRow, TaskTable, metric_value
from tutelage.report.recipe.verdicts import Verdict
from tutelage.report.table_files import markdown_escape, markdown_table
from tutelage.runs.fingerprints import COSMETIC
from tutelage.runs.recipe_results import RecipeResults, TrainedModel
from tutelage.runs.run import Run, adapter_text, maker_of, with_parents

LEFT_OUT = ("too_long", "bad_rows", "repeated")  # lists of rows, in data.json
_LIMITS = (
    "What it knows and gets wrong comes from the models and data above; safety, bias and facts were not checked.",
    "Terms of the base models and of the data hold for it too; those of a teacher may limit what is trained on its "
    "probabilities or answers.",
)


def model_card(
    name: str,
    model: TrainedModel,
    results: RecipeResults,
    tables: Sequence[TaskTable],
    verdicts: Sequence[Verdict],
    command: Sequence[str] = (),
) -> str:
    """The text of README.md for a trained model that is called `name`: a YAML head as the Hugging Face hub reads it,
    then Markdown. `command`: the words of the command that made it."""
    student = _origin(model.run)
    teachers = _teachers(model.run)
    parts = [
        f"---\n{yaml.safe_dump(_head(model, student), sort_keys=False, allow_unicode=True)}---",
        f"# {name}",
        _summary(model, student, teachers, results),
        f'```python\nfrom transformers import pipeline\n\nchat = pipeline("text-generation", "{name}")  # its folder\n'
        'print(chat([{"role": "user", "content": "…"}], max_new_tokens=128)[0]["generated_text"][-1]["content"])\n```',
        "## Scores",
        *_scores(model, results, tables, verdicts),
        "## Base models",
        _base_models(student, teachers),
        "## Data",
        _data(model),
        "## Training",
        f"The stages that made it, in order:\n\n```yaml\n{stages_yaml(model.run)}```",
        "## Limits",
        "\n".join(f"- {line}" for line in (*_own_limits(model, results, tables), *_LIMITS)),
        "## Made with",
        _made_with(model.run, command),
    ]
    return "\n\n".join(parts) + "\n"


def _head(model: TrainedModel, student: ModelConfig) -> dict[str, Any]:
    sets = list(dict.fromkeys(name.split(":")[0] for used in model.data.values() for name in used.hub))
    adapter = model.run.lora is not None and model.run.lora.keep_adapter
    relation = "adapter" if adapter else "finetune"
    base = {"base_model": [student.path], "base_model_relation": relation} if is_hub_name(student.path) else {}
    return {
        **base,
        **licence_of(student),
        "library_name": "peft" if adapter else "transformers",
        "pipeline_tag": "text-generation",
        **({"datasets": sets} if sets else {}),
        "tags": ["tutelage", "sft" if model.run.kind == "sft" else "distillation"],
    }


def _summary(model: TrainedModel, student: ModelConfig, teachers: Sequence[ModelConfig], results: RecipeResults) -> str:
    seed = "" if model.seed is None else f", seed {model.seed}"
    taught = f", taught by {_and(shown_name(one.path) for one in teachers)}" if teachers else ""
    start = "cut to fewer layers and trained" if any(run.kind == "prune" for run in _line(model.run)) else "trained"
    how = KIND_NAMES.get(model.run.kind, model.run.kind)
    lora, adapter = model.run.lora, ""
    if lora is not None:
        form = "kept apart from its base, which it names" if lora.keep_adapter else "added to the weights"
        adapter = f" What was trained is a {adapter_text(lora)}, {form}."
    size = size_text(results, model.stage)
    text = (
        f"{markdown_escape(model.label)}: {shown_name(student.path)}, {start} by {how}{taught} (stage `{model.stage}` "
        f"of the recipe `{results.name}`{seed}).{adapter}{size and f' {markdown_escape(size)}'}"
    )
    return text + (f"\n\n{markdown_escape(results.description)}" if results.description else "")


def _scores(
    model: TrainedModel, results: RecipeResults, tables: Sequence[TaskTable], verdicts: Sequence[Verdict]
) -> Iterable[str]:
    """Tables of this model beside the reference, the student and teachers, then the report's verdict."""
    lines: list[list[str]] = []
    others = _beside(model, results, tables)
    for table in tables:
        row = next((row for row in table.rows if row.stage == model.stage), None)
        own = [] if row is None else [one for one in row.runs if one.seed == model.seed or len(row.runs) == 1]
        for metric in table.metrics if own else ():
            of_others = (next((r for r in table.rows if r.stage == stage), None) for stage in others)
            cells = ["–" if r is None else score_text(r.value(metric)) for r in of_others]
            mine = score_text(metric_value(own, metric))
            lines.append([table.task, metric_label(metric), mine, *cells, str(len(own[0].records))])
    if not lines:
        yield "It was not evaluated."
        return
    yield markdown_table(["task", "metric", "this model", *others.values(), "examples"], lines)
    several = " (of other columns over seeds, too)" if len(results.seeds) > 1 else ""
    note = edge_note(cell for line in lines for cell in line)
    yield f"Mean ± standard error over examples{several}; 0 to 100 unless it is a loss.{note}"
    about = [v for v in verdicts if v.stage == model.stage] or [*verdicts]
    yield "The report's verdict:\n\n" + "\n".join(f"- {markdown_escape(verdict.text)}" for verdict in about)


def _beside(model: TrainedModel, results: RecipeResults, tables: Sequence[TaskTable]) -> dict[str, str]:
    """Stage → label of the rows shown beside the model: itself over all seeds, the reference, and the untrained."""
    rows: dict[str, TableRow] = {row.stage: row for table in tables for row in table.rows}
    references = [table.reference.stage for table in tables if table.reference is not None]
    wanted = [model.stage] if model.seed is not None else []
    taught_by = teacher_of(results, model.stage)
    teachers = ["teacher", *([taught_by.stage] if taught_by is not None else [])]
    wanted += [stage for stage in (*references, "base", *teachers) if stage != model.stage]
    labels = {stage: rows[stage].label for stage in wanted if stage in rows}
    if model.seed is not None and model.stage in labels:
        labels[model.stage] = f"mean of {len(results.seeds)} seeds"
    return labels


def _base_models(student: ModelConfig, teachers: Sequence[ModelConfig]) -> str:
    lines = [
        [role, shown_name(one.path), one.revision or "", str(licence_of(one).get("license", "not known"))]
        for role, one in (("student", student), *(("teacher", one) for one in teachers))
    ]
    return markdown_table(["role", "model", "revision", "licence"], lines)


def _data(model: TrainedModel) -> str:
    counts: dict[str, Any] = {}
    for run in with_parents([model.run]):
        if run.done and (run.folder / run_folder.DATA).is_file():
            counts |= run_folder.read_json(run.folder, run_folder.DATA)
    lines = []
    for name, used in model.data.items():
        source = f"written by stage {used.made_by}" if used.made_by else ", ".join((*used.files, *used.hub))
        found = counts.get(name, {})
        left_out = sum(len(found.get(why, ())) for why in LEFT_OUT)
        lines.append(
            [name, source, f"{found['rows']:,}" if "rows" in found else "", str(left_out), used.fingerprint[:12]]
        )
    return markdown_table(["section", "source", "rows", "left out", "fingerprint"], lines)


def stages_yaml(run: Run) -> str:
    """One YAML document per stage: what the recipe says of it and, if it trains, all its training settings."""
    shown = []
    for one in with_parents([run]):
        if one.kind == "answers":  # its settings are those of the seqkd stage
            continue
        stage = one.config.model_dump(mode="json", exclude={"label", "shared", "search", "epochs_of", "training"})
        used = {role: shown_name(config.path) for role, config in one.models.items() if maker_of(one, role) is None}
        left_open = "student" in one.models and stage.get("student") in (None, "base")
        if left_open and (maker := maker_of(one, "student")) is not None:
            stage["student"] = maker.stage
        if one.training is not None:
            stage["training"] = one.training.model_dump(mode="json", exclude=COSMETIC)
        if one.lora is not None:
            stage["lora"] = one.lora.model_dump(mode="json")
        content = {**stage, "seed": one.seed, **({"models": used} if used else {})}
        shown.append(yaml.safe_dump(content, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110))
    return "---\n".join(shown)


def _own_limits(model: TrainedModel, results: RecipeResults, tables: Sequence[TaskTable]) -> Iterable[str]:
    measured = [table for table in tables if any(row.stage == model.stage and row.runs for row in table.rows)]
    if measured:
        tasks = _and(f"`{table.task}`" for table in measured)
        yield f"It was measured on {tasks} and on nothing else."
    if len(results.seeds) == 1:
        yield "It is one training run: the errors above do not cover another run (seed)."
    if results.search is not None:
        tasks = _and(f"`{task}`" for task in results.search.tasks)
        yield f"Settings were chosen on {tasks}: scores there are optimistic."
    if model.run.training is not None:
        yield f"It was trained on sequences of at most {model.run.training.max_length:,} tokens."
    thinking = _origin(model.run).thinking
    if thinking is not None:
        yield f"It was trained with `enable_thinking={thinking}`: give that to its chat template."


def _made_with(run: Run, command: Sequence[str]) -> str:
    found = run_folder.read_json(run.folder, run_folder.ENVIRONMENT)
    versions = [f"{key} {found[key]}" for key in ("tutelage", "python", "torch", "transformers") if found.get(key)]
    words = [os.path.basename(word) if os.path.isabs(word) else word for word in command]
    lines = [f"`{shlex.join(words)}`"] if words else []
    lines += [f"{', '.join(versions)}, on {found.get('device') or run.device}", f"run `{run.folder.name}`"]
    return "\n".join(f"- {line}" for line in lines)


def _line(run: Run) -> list[Run]:
    """The run and those before it that trained or cut the same model, the last first."""
    maker = maker_of(run, "model" if run.kind == "prune" else "student")
    return [run] if maker is None else [run, *_line(maker)]


def _origin(run: Run) -> ModelConfig:
    """The model that the run's was made from, through all stages."""
    first = _line(run)[-1]
    return first.models["model" if first.kind == "prune" else "student"]


def _teachers(run: Run) -> list[ModelConfig]:
    """The models that taught it, as they were before any stage; each once."""
    found: dict[str, ModelConfig] = {}
    for one in _line(run):
        for asked in (one, *(parent for parent in one.parents if parent.kind == "answers")):
            if "teacher" in asked.models:
                maker = maker_of(asked, "teacher")
                teacher = asked.models["teacher"] if maker is None else _origin(maker)
                found[teacher.path] = teacher
    return list(found.values())


def is_hub_name(path: str) -> bool:
    """Whether a model's path is a name on the hub."""
    return not is_local(path) and re.fullmatch(r"[\w.-]+(/[\w.-]+)?", path) is not None


def shown_name(path: str) -> str:
    """A model's name for others: of a local folder its last part, of `package:NAME` the package."""
    if is_hub_name(path):
        return path
    return f"the package {path[8:]}" if path.startswith("package:") else re.split(r"[/\\]", path.rstrip("/\\"))[-1]


def _and(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
