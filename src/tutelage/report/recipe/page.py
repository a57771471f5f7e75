"""The report of a finished (or half-finished) recipe: one self-contained page, tables and figures.

Nothing on the page runs or is fetched: no script, no outside style. What models or data wrote is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tutelage.common.files import write_atomically
from tutelage.common.html import page_template
from tutelage.report.labels import metric_label
from tutelage.report.numbers import difference_text, interval_text, number, p_text
from tutelage.report.recipe import figures
from tutelage.report.recipe.pairs import comparisons, pairs_of
from tutelage.report.recipe.search_table import search_groups
from tutelage.report.recipe.synthetic_sizes import size_curves, size_svgs, write_size_files
from tutelage.report.recipe.table_files import csv_table, markdown_table, pairs_csv
from tutelage.report.recipe.tables import TableRow, TaskTable, build_tables, mean_text
from tutelage.report.recipe.verdicts import judged_rows, searched_task, verdicts

FIRST_SAMPLES = 4
EXTREME_SAMPLES = 2  # largest gains, and as many largest losses


@dataclass(frozen=True)
class SampleAnswer:
    label: str
    color: str
    seed: int | None
    response: str
    score: float | None  # 0..100
    finished: bool
    reason: str


@dataclass(frozen=True)
class SampleView:
    id: str
    why: str
    prompt: str
    references: tuple[str, ...]
    answers: tuple[SampleAnswer, ...]


def build_report(manifest: dict[str, Any], out: Path, include_text: bool = True) -> Path:
    """Write report.html, table.csv, pairs.csv, table.md and the figures into `out`; return the page's path.

    `include_text=False` leaves prompts, references and answers out, for data that may not be published.
    Cells whose evaluation is absent say so. Raises TutelageError when folders do not hold the same examples.
    """
    searched = searched_task(manifest)
    tables = sorted(build_tables(manifest), key=lambda table: table.task == searched)  # the one that flatters goes last
    pairs = [pairs_of(table) for table in tables]
    styles = figures.styles_of(manifest)
    panels = figures.loss_panels(manifest)
    curves = size_curves(manifest, tables)
    out.mkdir(parents=True, exist_ok=True)
    figures.write_loss_files(panels, out)
    figures.write_score_files(tables, styles, out)
    write_size_files(curves, styles, out)
    write_atomically(out / "table.csv", csv_table(tables))
    write_atomically(out / "pairs.csv", pairs_csv(pairs))
    write_atomically(out / "table.md", markdown_table(tables))
    shown = [table for table in tables if table.task != searched] if include_text else []
    filters = {
        "metric": metric_label,
        "mean": mean_text,
        "difference": difference_text,
        "interval": interval_text,
        "p": p_text,
        "number": number,
    }
    page = page_template("tutelage.report.recipe", "page.html.j2", filters)
    html = page.render(
        manifest=manifest,
        verdicts=verdicts(manifest, tables),
        tables=tables,
        matrices=[one for one in pairs if one.worth_showing],
        curves=list(zip(curves, size_svgs(curves, styles), strict=True)),
        searched=searched,
        styles=styles,
        score_svgs=figures.score_svgs(tables, styles),
        panels=list(zip(panels, figures.panel_svgs(panels), strict=True)),
        legend=figures.legend_of(panels),
        samples=[(table, _samples(table, styles)) for table in shown],
        include_text=include_text,
        search=search_groups(manifest),
        comparisons=comparisons(tables, pairs),
    )
    return write_atomically(out / "report.html", html)


def _samples(table: TaskTable, styles: dict[str, figures.Style]) -> list[SampleView]:
    """The first examples, then those where the first judged row gains or loses most against the reference."""
    rows = [row for row in table.rows if row.cell.runs]
    if not rows:
        return []
    count = rows[0].examples
    reasons = {index: f"example {index + 1} of the data" for index in range(min(FIRST_SAMPLES, count))}
    judged = next((row for row in judged_rows(table) if row.cell.runs), None)
    reference = table.reference
    if judged is not None and reference is not None and reference.cell.runs:
        gains = judged.cell.scores(table.headline).mean(0) - reference.cell.scores(table.headline).mean(0)
        order = [int(i) for i in np.argsort(-gains, kind="stable") if not math.isnan(gains[i]) and i not in reasons]
        best = [i for i in order if gains[i] > 0][:EXTREME_SAMPLES]
        worst = [i for i in reversed(order) if gains[i] < 0][:EXTREME_SAMPLES]
        for word, chosen in (("gain", best), ("loss", worst)):
            for index in chosen:
                reasons[index] = (
                    f"among the largest {word}{'e' if word == 'loss' else ''}s of {judged.label} against "
                    f"{reference.label}: {abs(gains[index]):.1f} points"
                )
    return [_sample(table, rows, index, why, styles) for index, why in reasons.items()]


def _sample(
    table: TaskTable, rows: Sequence[TableRow], index: int, why: str, styles: dict[str, figures.Style]
) -> SampleView:
    answers = []
    for row in rows:
        run = row.cell.runs[0]
        record = run.records[index]
        score = record.scores[table.headline]
        answers.append(
            SampleAnswer(
                label=row.label,
                color=styles[row.stage].color,
                seed=run.seed,
                response=record.response,
                score=None if score is None else 100 * score,
                finished=record.finished,
                reason=record.reason,
            )
        )
    shown = rows[0].cell.runs[0].records[index]
    return SampleView(shown.id, why, shown.prompt, shown.references, tuple(answers))
