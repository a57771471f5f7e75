"""The report of a study: one self-contained page, tables and figures, whatever part of the study is done.

Nothing on the page runs or is fetched: no script, no outside style. What models or data wrote is escaped.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from tutelage.common.files import write_atomically
from tutelage.common.html import page_template
from tutelage.common.run_folder import EXAMPLES
from tutelage.evaluation.page import PAGE_FILE
from tutelage.evaluation.records import ExampleRecord, read_records
from tutelage.evaluation.statistics import significant
from tutelage.report.forecasts import forecast_rows
from tutelage.report.labels import AVERAGE, method_name, metric_label, size_text, task_label
from tutelage.report.numbers import difference_text, edge_note, interval_text, number_text, p_text, score_text
from tutelage.report.scores import is_evaluated
from tutelage.report.side_by_side import ExampleView, Side, example_view, extremes
from tutelage.report.study.answers import answers, endless, gaps, left_out, yardstick
from tutelage.report.study.claims import claims
from tutelage.report.study.draw import legend_svgs, panel_svgs, write_files
from tutelage.report.study.figures import build_figures, undrawn
from tutelage.report.study.losses import loss_figures
from tutelage.report.study.paper_values import paper_values
from tutelage.report.study.read import build_study
from tutelage.report.study.results import SYNTHETIC, Result, Study
from tutelage.report.study.sentences import arm_label
from tutelage.report.study.table_files import study_csv, study_latex, study_markdown
from tutelage.report.study.tables import StudyTable, build_tables, every_cell
from tutelage.report.words import words_of_study

if TYPE_CHECKING:
    from tutelage.study.plan import Cell

PAGE = "report.html"
SHOWN_TASKS = 6  # with replies side by side


@dataclass(frozen=True)
class StudyReport:
    """The files of a report."""

    page: Path
    tables: tuple[Path, ...]
    figures: tuple[Path, ...]
    missing: int  # cells without an evaluation


@dataclass(frozen=True)
class RunLink:
    """One seed's run, as the table of all cells shows it."""

    seed: int
    score: str
    folder: str  # as the page shows it
    href: str | None  # None where the folder is not there yet
    examples: str | None


@dataclass(frozen=True)
class CellView:
    """One row of the table of all cells."""

    result: Result
    name: str
    runs: tuple[RunLink, ...]


def write_study_report(
    title: str,
    cells: Sequence[Cell],
    out: Path,
    include_text: bool,
    logs: Mapping[Path, Path] | None = None,
    forecasts: Path | None = None,
) -> StudyReport:
    """Write report.html, the tables (CSV, Markdown, LaTeX) and the figures (PNG, SVG) into `out`; return their paths.

    `include_text=False` leaves prompts, references and replies out, for data that may not be published. `logs`, as from
    `training_logs`, adds the losses over training. `forecasts`, the file that `keep_forecast` wrote, adds them beside
    what came out. Links to runs are relative to `out`. Raises TutelageError when a task's evaluations are not of the
    same examples, when a cell is given twice, or when a folder cannot be read.
    """
    study = build_study(cells)
    sentences, claimed = answers(study), claims(study)
    tables, figures = build_tables(study), [*build_figures(study), *loss_figures(study, logs or {})]
    missing = sum(not is_evaluated(cell.folder) for cell in cells)

    out.mkdir(parents=True, exist_ok=True)
    written = [path for table in tables for path in _write_table(table, out)]
    written.append(write_atomically(out / "cells.csv", study_csv(every_cell(study))))
    drawn = [path for figure in figures for path in write_files(figure, out)]

    filters = {
        "size": size_text,
        "task": study.label,
        "method": method_name,
        "metric": metric_label,
        "score": score_text,
        "difference": difference_text,
        "interval": interval_text,
        "p": p_text,
    }
    html = page_template("tutelage.report.study", "page.html.j2", filters).render(
        title=title,
        study=study,
        done=len(cells) - missing,
        answers=sentences,
        notes=[yardstick(study).text, *gaps(study), *endless(study), *(sentence.text for sentence in left_out(study))],
        undrawn=[(_name(one, study), one.anchor) for one in undrawn(study, figures)],
        claims=claimed,
        tables=tables,
        edge_note=edge_note(cell.text for table in tables for line in table.lines for cell in line.cells),
        figures=[(figure, panel_svgs(figure), legend_svgs(figure)) for figure in figures],
        views=_views(study, out),
        forecasts=None
        if forecasts is None
        else [(_name(row.result, study), row) for row in forecast_rows(study, forecasts)],
        examples=_examples(study) if include_text else [],
        include_text=include_text,
        comparisons=sum(p is not None for p in study.compared.values()),
        words=words_of_study((result.arm.method for result in study.results.values()), bool(study.held_out)),
        one_seed=all(len(result.seeds) <= 1 for result in study.results.values()),
        seeds=sorted({cell.seed for cell in cells}),
        sizes=sorted({cell.size for cell in cells if cell.size is not None and cell.method not in SYNTHETIC}),
        paper=paper_values(),
        average=AVERAGE,
    )
    return StudyReport(write_atomically(out / PAGE, html), tuple(written), tuple(drawn), missing)


def _write_table(table: StudyTable, out: Path) -> list[Path]:
    return [
        write_atomically(out / f"{table.name}.csv", study_csv(table)),
        write_atomically(out / f"{table.name}.md", study_markdown(table)),
        write_atomically(out / f"{table.name}.tex", study_latex(table)),
    ]


def _views(study: Study, out: Path) -> list[CellView]:
    return [CellView(result, _name(result, study), tuple(_runs(result, out))) for result in study.results.values()]


def _name(result: Result, study: Study) -> str:
    return arm_label(result.arm, study)


def _runs(result: Result, out: Path) -> Iterable[RunLink]:
    """One link per seed; none for an average, whose tasks have them."""
    if result.of:
        return
    for cell in result.cells:
        folder = os.path.relpath(cell.folder, out)
        scored = cell.seed in result.seeds
        there = scored or cell.seed in result.unscored_seeds
        score = number_text(result.by_seed[result.seeds.index(cell.seed)], result.metric) if scored else "unscored"
        score = score if there else "missing"
        page = next((n for n in (PAGE_FILE, EXAMPLES) if there and (cell.folder / n).is_file()), None)
        # "./" keeps a folder's name from being read as a scheme
        href = f"./{quote(folder)}/" if there else None
        yield RunLink(cell.seed, score, cell.folder.name, href, f"{href}{page}" if page else None)


def _examples(study: Study) -> list[tuple[str, list[ExampleView]]]:
    """For each task, SFT beside the arm that differs most from it: the first example, its largest gain and loss."""
    shown = []
    for task in (*study.general, *study.domain):
        found = [(r, v) for (_, t), r in study.results.items() if t == task and (v := study.versus(r)) is not None]
        if not found or len(shown) == SHOWN_TASKS:
            continue
        result, _ = max(found, key=lambda pair: (significant(pair[1]), abs(pair[1].difference)))
        reference = study.reference(result)
        assert reference is not None
        seed = next((s for s in result.seeds if s in reference.seeds), None)
        arms = [Side(_name(one, study), _records(one, one.seeds[0] if seed is None else seed))
                for one in (reference, result)]  # fmt: skip
        shown.append((task_label(task), _chosen(arms[0], arms[1], result.metric)))
    return shown


def _records(result: Result, seed: int | None) -> dict[str, ExampleRecord]:
    cell = next(cell for cell in result.cells if cell.seed == seed)
    return {record.id: record for record in read_records(cell.folder)}


def _chosen(reference: Side, arm: Side, metric: str) -> list[ExampleView]:
    gains = {id: _score(arm.records[id], metric) - _score(reference.records[id], metric) for id in arm.records}
    best, worst = extremes(gains, 1)
    chosen = dict.fromkeys([*gains][:1], "first example of the data")
    for word, ids in (("gain", best), ("loss", worst)):
        for id in ids:
            chosen.setdefault(id, f"largest {word} of {arm.label} against {reference.label}")
    return [example_view(id, why, (reference, arm), metric) for id, why in chosen.items()]


def _score(record: ExampleRecord, metric: str) -> float:
    value = record.scores.get(metric)
    return math.nan if value is None else value
