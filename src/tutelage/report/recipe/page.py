"""The report of a recipe, whatever part of it is done: one self-contained page, tables and figures.

Nothing on the page runs or is fetched: no script, no outside style. What models or data wrote is escaped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tutelage.common.files import write_atomically
from tutelage.common.html import page_template
from tutelage.common.run_folder import models_folder
from tutelage.report.drawing import Look
from tutelage.report.labels import metric_label
from tutelage.report.numbers import difference_text, edge_note, interval_text, number, p_text, score_text
from tutelage.report.recipe import figures
from tutelage.report.recipe.choice import Choice, asked, choose, shown
from tutelage.report.recipe.new_rows import new_rows
from tutelage.report.recipe.pairs import TaskPairs, comparisons, pairs_of
from tutelage.report.recipe.savings import beside_teacher, given_up, size_text
from tutelage.report.recipe.search_table import search_groups
from tutelage.report.recipe.synthetic_sizes import size_curves, size_svgs, write_size_files
from tutelage.report.recipe.table_files import MARKED, is_marked, pairs_csv, search_csv, tables_csv, tables_markdown
from tutelage.report.recipe.tables import TableRow, TaskTable, build_tables, how_made
from tutelage.report.recipe.verdicts import (
    Test,
    judged_rows,
    key_of,
    progress_text,
    searched_tasks,
    verdicts,
    yardstick,
)
from tutelage.report.side_by_side import ExampleView, Side, example_view, extremes, lowest
from tutelage.report.words import words_of_recipe

if TYPE_CHECKING:
    from tutelage.runs.recipe_results import RecipeResults

FIRST_EXAMPLES = 4
WORST_EXAMPLES = 2  # of the model to use
EXTREME_EXAMPLES = 2  # largest gains, and as many largest losses


def build_report(results: RecipeResults, out: Path, include_text: bool = True) -> Path:
    """Write report.html, table.csv, pairs.csv, search.csv, table.md and the figures into `out`; return the page's path.

    `include_text=False` leaves prompts, references and replies out, for data that may not be published. Evaluations
    that are not done are shown as missing. Raises TutelageError when a task's evaluations are not of the same examples,
    or when a folder cannot be read.
    """
    searched = searched_tasks(results)
    # Tasks that settings were chosen on go last: their scores are optimistic.
    tables = sorted(build_tables(results), key=lambda table: table.task in searched)
    pairs = [pairs_of(table) for table in tables]
    looks, panels, curves = figures.looks_of(results), figures.loss_panels(results), size_curves(results, tables)
    progress, choice = progress_text(results), choose(results, tables, pairs)
    known = asked(results, tables, pairs)
    for stage in {row.stage for row in results.rows if row.teacher} | ({choice.stage} if choice is not None else set()):
        known = beside_teacher(results, tables, pairs, stage) | known
    differ = shown(known)
    read, start = choice, ""
    if choice is not None and results.models:
        read, start = _as_read(choice, results.models[0].run.folder.parent)

    out.mkdir(parents=True, exist_ok=True)
    figures.write_loss_files(panels, out)
    figures.write_score_files(tables, looks, out)
    write_size_files(curves, looks, out)
    write_atomically(out / "table.csv", tables_csv(tables))
    write_atomically(out / "pairs.csv", pairs_csv(pairs))
    if results.search is not None:
        write_atomically(out / "search.csv", search_csv(results.search))
    write_atomically(out / "table.md", tables_markdown(tables, progress, differ))

    filters = {
        "metric": metric_label,
        "score": score_text,
        "difference": difference_text,
        "interval": interval_text,
        "p": p_text,
        "number": number,
    }
    with_text = ([table for table in tables if table.task not in searched] or tables) if include_text else []
    html = page_template("tutelage.report.recipe", "page.html.j2", filters).render(
        results=results,
        progress=progress,
        verdicts=verdicts(results, tables),
        choice=read,
        start=start,
        savings=_savings(results, pairs, choice.stage, known) if choice is not None else "",
        marked=lambda table, row, metric: is_marked(table, row, metric, differ),
        differ=lambda table, pair: key_of(table, pair.left, pair.right) in differ,
        tested=lambda table, pair: key_of(table, pair.left, pair.right) in known,
        marks=MARKED,
        yardstick=yardstick(results, tables),
        tables=tables,
        edge_note=edge_note(score_text(row.value(name)) for one in tables for row in one.rows for name in one.metrics),
        matrices=[one for one in pairs if one.worth_showing],
        curves=list(zip(curves, size_svgs(curves, looks), strict=True)),
        new_rows=new_rows(results, tables),
        searched=searched,
        hows={row.stage: how_made(row) for row in results.rows},
        looks=looks,
        score_svgs=figures.score_svgs(tables, looks),
        panels=list(zip(panels, figures.loss_svgs(panels), strict=True)),
        legend=figures.legend_of(panels),
        examples=[(table, _examples(table, looks, results.tasks[table.task].data, choice)) for table in with_text],
        include_text=include_text,
        search=search_groups(results),
        comparisons=comparisons(tables, pairs),
        words=words_of_recipe(results, [panel.title for panel in panels]),
    )
    return write_atomically(out / "report.html", html)


def _as_read(choice: Choice, runs: Path) -> tuple[Choice, str]:
    """The choice for a page, and where its paths start, if that is to be said. `runs`: as the command named it, in a
    folder that a page's reader does not know: paths from there that begin with `..` lead nowhere."""
    start = models_folder(runs).parent
    if ".." not in start.parts:
        return choice, ""
    use, why, then = (text.replace(f"{start}/", "") for text in (choice.use, choice.why, choice.next))
    commands = tuple((what, command.replace(f"{start}/", "")) for what, command in choice.commands)
    return replace(choice, use=use, why=why, next=then, commands=commands), start.resolve().name


def _savings(results: RecipeResults, pairs: Sequence[TaskPairs], stage: str, known: Mapping[Test, float]) -> str:
    """The size of the model to use, and how much more its teacher scores; empty where neither is known."""
    return " ".join(filter(None, [size_text(results, stage), *given_up(results, pairs, stage, known)]))


def _examples(table: TaskTable, looks: dict[str, Look], data: str, choice: Choice | None) -> list[ExampleView]:
    """The first examples, the lowest scores of the model to use, then those where the first judged row gains or loses
    most against the reference. `data`: the files that they are from."""
    rows = [row for row in table.rows if row.runs]
    if not rows:
        return []
    ids = [record.id for record in rows[0].runs[0].records]
    chosen = {id: f"example {n + 1} of the data" for n, id in enumerate(ids[:FIRST_EXAMPLES])}
    for row in (row for row in rows if choice is not None and row.stage == choice.stage):
        scores = {id: score for id, score in _scores(row, table.headline).items() if id not in chosen}
        chosen |= {
            id: f"among the lowest scores of {row.label}, the model to use: {scores[id]:.1f}"
            for id in lowest(scores, WORST_EXAMPLES)
        }
    judged = next((row for row in judged_rows(table) if row.runs), None)
    if judged is not None and table.reference is not None and table.reference.runs:
        own, base = _scores(judged, table.headline), _scores(table.reference, table.headline)
        gains = {id: score - base[id] for id, score in own.items() if id not in chosen}
        best, worst = extremes(gains, EXTREME_EXAMPLES)
        for words, found in (("gains", best), ("losses", worst)):
            which = f"among the largest {words} of {judged.label} against {table.reference.label}"
            chosen |= {id: f"{which}: {abs(gains[id]):.1f} points" for id in found}
    # where a model has several seeds, its first is shown
    sides = [Side(row.label, {one.id: one for one in row.runs[0].records}, looks[row.stage].color) for row in rows]
    return [example_view(id, why, sides, table.headline, data) for id, why in chosen.items()]


def _scores(row: TableRow, metric: str) -> dict[str, float]:
    """By example id: the row's mean over seeds; nan where one is unscored."""
    value = row.value(metric)
    assert value is not None
    return dict(zip((record.id for record in row.runs[0].records), value.scores.mean(0).tolist(), strict=True))
