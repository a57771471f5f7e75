from __future__ import annotations

import dataclasses
import itertools
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_run import make_run, row_of, with_row
from pages import HOSTILE, Page, do_not_draw
from waiting import HANG

from tutelage.evaluation.records import ExampleRecord
from tutelage.report.numbers import difference_text, interval_text
from tutelage.report.recipe.choice import asked, choose, shown
from tutelage.report.recipe.page import build_report
from tutelage.report.recipe.pairs import pairs_of
from tutelage.report.recipe.tables import build_tables
from tutelage.runs.recipe_results import RowRun, TrainedModel
from tutelage.runs.rows.notes import SectionRows

pytestmark = pytest.mark.slow


def hostile(stage: str, records: list[ExampleRecord]) -> list[ExampleRecord]:
    return [
        dataclasses.replace(
            record, id=f"{n}{HOSTILE}", prompt=HOSTILE, response=HOSTILE, references=(HOSTILE,), reason=HOSTILE
        )
        for n, record in enumerate(records)
    ]


@pytest.fixture(scope="module")
def hostile_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hostile")
    results = make_run(root, count=5, change=hostile)
    rows = tuple(dataclasses.replace(row, label=HOSTILE, chosen={HOSTILE: HOSTILE}) for row in results.rows)
    named = {"name": HOSTILE, "description": HOSTILE, "facts": {HOSTILE: HOSTILE}}
    with pytest.MonkeyPatch.context() as patch:
        do_not_draw(patch, "png")  # the page has the vectors
        return build_report(dataclasses.replace(results, rows=rows, **named), root / "report")


@pytest.mark.long
def test_page_and_files(tmp_path: Path) -> None:
    results = make_run(tmp_path, count=40)
    path = build_report(results, tmp_path / "report")
    assert path == tmp_path / "report" / "report.html"
    names = ["loss.png", "loss.svg", "pairs.csv", "report.html", "scores.png", "scores.svg"]
    names += ["search.csv", "table.csv", "table.md"]
    assert sorted(file.name for file in path.parent.iterdir()) == names
    page = Page(path.read_text(encoding="utf-8"))
    assert page.text.index("GKD (SFT-S) scores ") < page.text.index("How the numbers were computed")
    assert page.text.index(" on test, ") < page.text.index("settings were chosen on this task")
    assert (
        page.text.index("GKD (SFT-S) scores ") < page.text.index("Use GKD (SFT-S). ") < page.text.index("Read the dif")
    )
    assert page.tags.count("table") == 6  # two tasks, a matrix each, two searches
    assert page.tags.count("details") == 10  # four first examples, two lowest scores, two gains, two losses, of test
    assert page.text.count("among the largest gains of GKD (SFT-S) against SFT") == 2
    assert page.text.count("among the largest losses of GKD (SFT-S) against SFT") == 2
    assert page.text.count(" agree to ") >= 8  # every sample's first reference
    assert "this page makes 32 in all, all metrics counted; the count below a pairwise table" in page.text
    assert "14300" in page.text
    html = path.read_text(encoding="utf-8")
    training = html[html.index("<h2>Training</h2>") :].partition("</section>")[0]
    assert training.count("<figcaption") == training.count("<figure>") > 6
    assert page.text.index("Read the difference to the reference first") < page.text.index("best reference")
    assert page.text.count("± is the standard error of one score") == 1


def test_data_and_what_each_row_is(tmp_path: Path, undrawn: None) -> None:
    results = make_run(tmp_path, count=3)
    note = "1 row is an exact repetition and counts twice: remove <b>.csv:9 (it repeats <b>.csv:4)"
    results = dataclasses.replace(
        results, sections=(SectionRows("test", "<b>.csv", "scored on", 1200, (note,), ("2 <i>",)),)
    )
    taught = {"start": "SFT", "teacher": "big", "data": ("train", "more")}
    results = with_row(with_row(results, "gkd", **taught), "sft", start="the student", data=("train",))
    results = with_row(with_row(results, "off_policy", kind="seqkd", **taught), "gkd_base", kind="method", **taught)
    results = with_row(results, "teacher", kind="model", runs=())
    page = Page(build_report(results, tmp_path / "out").read_text(encoding="utf-8"))
    assert f"scored on Left out, or incomplete: data.test: 2 <i>. Note: data.test: {note}." in page.text
    for how in ("SFT the student, then fine-tuned on train",
                "GKD (SFT-S) SFT, then distilled from big on train and more",
                "KD on the data only SFT, then fine-tuned on answers of big to train and more",
                "GKD (Base-S) SFT, then trained with big on train and more",
                "Teacher (SFT) as it is, before training"):  # fmt: skip
        assert how in page.text


@pytest.mark.usefixtures("undrawn")
def test_pairwise_comparisons(tmp_path: Path) -> None:
    results = make_run(tmp_path, count=40)
    results = dataclasses.replace(results, tasks={"test": results.tasks["test"]}, search=None)
    html = build_report(results, tmp_path / "out").read_text(encoding="utf-8")
    matrix = html[html.index('<table class="pairs">') :].partition("</table>")[0]
    head, *rows = re.findall(r"<tr>(.*?)</tr>", matrix, re.DOTALL)
    labels = [row.label for row in results.rows[1:]]
    assert re.findall(r'<th scope="col">(.*?)</th>', head) == labels
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL) for row in rows]
    assert [[n for n, cell in enumerate(row) if not cell] for row in cells] == [[0], [1], [2], [3], [4]]
    tables = build_tables(results)
    (task,), known = [pairs_of(table) for table in tables], shown(asked(results, tables))
    seen = {"up": 0, "down": 0, None: 0}
    for n, m in itertools.combinations(range(5), 2):
        pair = next(p for p in task.pairs if (p.left.label, p.right.label) == (labels[n], labels[m]))
        for cell, one in ((cells[n][m], pair), (cells[m][n], pair.swapped())):
            mark = next((mark for mark in ("up", "down") if f'class="{mark}"' in cell), None)
            differs = ("test", frozenset({one.left.stage, one.right.stage})) in known
            assert mark == (None if not differs else "up" if one.versus.difference > 0 else "down")
            assert ("∗" in cell) == (mark is not None)
            assert f">{difference_text(one.versus)}<" in cell
            assert f"<small>{interval_text(one.versus)}</small>" in cell
            seen[mark] += 1
    assert min(seen.values()) > 0  # the run has all three
    text = Page(html).text
    assert "10 comparisons , each shown from both sides . If no two of these models differed, about 0.5 of 10 " in text
    assert "this page makes 16 in all, " in text  # 5 x 2 metrics in the table, 6 pairs without the reference


@pytest.mark.usefixtures("undrawn")
def test_two_rows_need_no_matrix(tmp_path: Path) -> None:
    results = make_run(tmp_path, count=6)
    results = dataclasses.replace(results, rows=results.rows[:4])  # a baseline, the teacher, SFT, GKD
    three = Page(build_report(results, tmp_path / "out").read_text(encoding="utf-8"))
    assert three.text.count("Pairwise comparisons") == 1
    assert three.text.count("row − column") == 2
    html = build_report(with_row(results, "teacher", runs=()), tmp_path / "out").read_text(encoding="utf-8")
    assert "Pairwise comparisons" not in Page(html).text
    assert '<table class="pairs">' not in html
    assert "this page makes 8 in all, " in Page(html).text
    assert len((tmp_path / "out" / "pairs.csv").read_text().splitlines()) == 3  # the head, one pair a task


def test_the_lowest_scores_of_the_model_to_use_are_shown(tmp_path: Path, undrawn: None) -> None:
    """Those of a model that is not a judged row, too."""

    def change(stage: str, records: list[ExampleRecord]) -> list[ExampleRecord]:
        low = {"sft": {7: 0.25, 9: 0.5, 2: 0.0}}.get(stage)
        return [dataclasses.replace(one, scores=dict.fromkeys(one.scores, 0.1 if low is None else low.get(n, 1.0)))
                for n, one in enumerate(records)]  # fmt: skip

    results = make_run(tmp_path, count=12, change=change)
    page = Page(build_report(results, tmp_path / "out").read_text(encoding="utf-8"))
    assert "Use SFT." in page.text
    assert re.findall(r"among the lowest scores of (.*?), the model to use: ([\d.]+)", page.text) == [
        ("SFT", "25.0"), ("SFT", "50.0")]  # fmt: skip


def test_an_example_with_a_bare_number_is_named_with_its_file(tmp_path: Path, undrawn: None) -> None:
    def numbered(stage: str, records: list[ExampleRecord]) -> list[ExampleRecord]:
        return [dataclasses.replace(one, id=str(248 + n)) for n, one in enumerate(records)]

    results = make_run(tmp_path, count=5, change=numbered)
    task = dataclasses.replace(results.tasks["test"], data="test.jsonl")
    page = Page(
        build_report(dataclasses.replace(results, tasks={"test": task}), tmp_path / "out").read_text(encoding="utf-8")
    )
    assert "id 248 of test.jsonl example 1 of the data" in page.text


def test_page_is_self_contained(hostile_page: Path) -> None:
    html = hostile_page.read_text(encoding="utf-8")
    page = Page(html)
    assert not {"script", "img", "link", "iframe"} & set(page.tags)
    assert all(address.startswith("#") for address in page.addresses)
    assert not re.findall(r"url\((?!#)|@import", html)
    assert "default-src 'none'" in html


def test_paths_on_a_page_do_not_begin_where_the_command_was_given(
    tmp_path: Path, undrawn: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    run: Any = SimpleNamespace(folder=Path("../mine/runs/gkd-s0-1"), done=True, kind="distill")
    (run.folder / "model").mkdir(parents=True)
    results = make_run(tmp_path, count=40)
    model = TrainedModel("gkd", row_of(results, "gkd").label, None, run, {})
    results = dataclasses.replace(results, models=(model,))
    choice = choose(results, build_tables(results))
    assert choice is not None
    assert choice.use == "Use `../mine/runs/gkd-s0-1`."
    text = Page(build_report(results, tmp_path / "report").read_text(encoding="utf-8")).text
    assert re.search(r"Use\s+runs/gkd-s0-1\b", text)
    assert "tutelage chat runs/gkd-s0-1" in text
    assert re.search(r"Paths start in the folder\s+mine\b", text)
    assert "../" not in text


def test_missing_evaluations_are_shown_and_do_not_crash(tmp_path: Path, undrawn: None) -> None:
    results = dataclasses.replace(make_run(tmp_path, count=5), search=None, facts={})
    nothing = RowRun(0, None, {})
    results = with_row(results, "gkd", runs=(nothing, *row_of(results, "gkd").runs[1:]))
    gone = RowRun(0, tmp_path / "gone", dict.fromkeys(("test", "dev"), tmp_path / "gone"))
    results = with_row(results, "off_policy", runs=(gone,))
    page = Page(build_report(results, tmp_path / "out").read_text(encoding="utf-8"))
    assert "GKD (SFT-S) has 2 of 3 seeds so far." in page.text
    assert "KD on the data only has no test scores yet, so nothing can be said about it." in page.text
    empty = dataclasses.replace(results, rows=tuple(dataclasses.replace(row, runs=()) for row in results.rows))
    page = Page(build_report(empty, tmp_path / "out").read_text(encoding="utf-8"))
    assert page.text.count("so nothing can be said") == 1  # not once per row and task
    assert "svg" not in page.tags  # no figure of nothing
    assert "No answers have been evaluated yet." in page.text
    page = Page(build_report(dataclasses.replace(results, reference=None), tmp_path / "out").read_text("utf-8"))
    assert "No reference row is named, so no difference to one was tested." in page.text


def test_notices_show_keys_as_code_and_dashed_rows_have_hollow_dots(tmp_path: Path, undrawn: None) -> None:
    results = make_run(tmp_path, count=3)
    rows = tuple(dataclasses.replace(results.rows[1], stage=f"s{n}", label=f"row {n}") for n in range(8))
    notices = ("take a larger `max_new_tokens` than `<i>`",)
    results = dataclasses.replace(results, rows=rows, reference=None, search=None, notices=notices)
    html = build_report(results, tmp_path / "out").read_text(encoding="utf-8")
    assert "<b>Note:</b> take a larger <code>max_new_tokens</code> than <code>&lt;i&gt;</code>." in html
    table = html[html.index('<table class="results">') :].partition("</table>")[0]
    assert re.findall(r'class="chip( dashed)?"', table) == [""] * 6 + [" dashed"] * 2  # six colours


def test_settings_have_a_column_only_where_a_search_chose_some(tmp_path: Path, undrawn: None) -> None:
    searched = make_run(tmp_path / "runs", count=3)
    plain = dataclasses.replace(searched, rows=tuple(dataclasses.replace(row, chosen={}) for row in searched.rows))
    for results, has in ((searched, True), (plain, False)):
        html = build_report(results, tmp_path / "out").read_text(encoding="utf-8")
        assert ("<th>settings</th>" in html, 'data-label="settings"' in html) == (has, has)
        assert ("| chosen |" in (tmp_path / "out" / "table.md").read_text()) == has


def test_texts_can_be_left_out(tmp_path: Path, undrawn: None) -> None:
    results = make_run(tmp_path, count=5)
    html = build_report(results, tmp_path / "out", include_text=False).read_text(encoding="utf-8")
    assert "agree to" not in html
    assert "Summarize this dialogue" not in html
    assert "may not be published" in html
    assert all(
        "agree to" not in (tmp_path / "out" / name).read_text()
        for name in ("table.csv", "pairs.csv", "table.md", "loss.svg")
    )


def test_hostile_output_stays_text(hostile_page: Path) -> None:
    page = Page(hostile_page.read_text(encoding="utf-8"))
    assert not {"script", "img"} & set(page.tags)
    assert page.handlers == []
    assert page.text.count(HOSTILE) > 20  # shown as it is, neither dropped nor evaluated
    html = hostile_page.read_text(encoding="utf-8")
    matrices = [part.partition("</table>")[0] for part in html.split('<table class="pairs">')[1:]]
    assert [Page(matrix).text.count(HOSTILE) for matrix in matrices] == [10, 10]  # five rows, five columns


def dom(path: Path, *flags: str) -> str:
    """The page as a browser has it after its scripts."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium on the path to open the page in")
    usual = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    profile = f"--user-data-dir={path.parent / 'profile'}"
    command = [browser, *usual.split(), *flags, profile, "--dump-dom", path.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=HANG, check=True).stdout


BROKEN_WORDS = """<script>
const broken = [], range = document.createRange();
for (const cell of document.querySelectorAll("th")) {
  const text = cell.lastChild;
  if (text?.nodeType !== Node.TEXT_NODE) continue;
  for (const word of text.data.matchAll(/\\S+/g)) {
    range.setStart(text, word.index); range.setEnd(text, word.index + word[0].length);
    if (new Set([...range.getClientRects()].map(one => one.top)).size > 1) broken.push(word[0]);
  }
}
document.title = `broken: ${broken}`;
</script>"""


@pytest.mark.parametrize("width", [390, 1280])
def test_no_word_of_a_tables_head_is_broken(tmp_path: Path, undrawn: None, width: int) -> None:
    results = make_run(tmp_path, count=5)
    html = build_report(with_row(results, "sft", label="teacher_sft"), tmp_path / "out").read_text(encoding="utf-8")
    page = tmp_path / "page.html"
    page.write_text(re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", html) + BROKEN_WORDS, "utf-8")
    (title,) = re.findall("<title>(.*?)</title>", dom(page, f"--window-size={width},900"))
    assert title == "broken: "


def test_hostile_output_does_not_run_in_a_browser(hostile_page: Path, tmp_path: Path) -> None:
    naive = tmp_path / "naive.html"
    naive.write_text(f"<title>page</title><script>var a = 1;{HOSTILE}")
    assert "<title>owned</title>" in dom(naive)  # the string does run where nothing is escaped
    # without the policy line, so that escaping alone has to hold
    bare = tmp_path / "bare.html"
    html, removed = re.subn(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", hostile_page.read_text("utf-8"))
    assert removed == 1
    bare.write_text(html, encoding="utf-8")
    rendered = dom(bare)
    assert "<title>owned</title>" not in rendered
    assert "How the numbers were computed" in rendered
    assert not {"script", "img"} & set(Page(rendered).tags)
