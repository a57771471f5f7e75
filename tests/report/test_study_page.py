from __future__ import annotations

import csv
import dataclasses
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest
from fake_study import STUDENTS, evaluate, make_study, plan
from pages import HOSTILE, Page, do_not_draw
from recipes_fixture import Workshop
from tiny_study import write_study
from waiting import HANG

from tutelage.cli.main import main
from tutelage.evaluation.records import ExampleRecord
from tutelage.report.study.losses import loss_figures, training_logs
from tutelage.report.study.page import StudyReport, write_study_report
from tutelage.report.study.read import build_study
from tutelage.report.training_curves import CurvePanel
from tutelage.study.plan import Cell

pytestmark = pytest.mark.slow

NAMES = {"answer", "figure1", "figure2", "figure3", "figure4", "figure5"}


def hostile(cell: Cell, records: list[ExampleRecord]) -> list[ExampleRecord]:
    return [
        dataclasses.replace(r, id=f"{n}{HOSTILE}", prompt=HOSTILE, response=HOSTILE, references=(HOSTILE,))
        for n, r in enumerate(records)
    ]


def skip(cell: Cell) -> bool:
    return cell.method == "seqkd" and cell.student == STUDENTS[1]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Cell], StudyReport]:
    root = tmp_path_factory.mktemp("study")
    cells = make_study(root / "runs", 40, skip)
    return cells, write_study_report("tiny", cells, root / "out", include_text=True)


@pytest.fixture
def _vectors_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    do_not_draw(monkeypatch, "png")


@pytest.mark.long
def test_page_tables_and_figures(made: tuple[list[Cell], StudyReport]) -> None:
    cells, report = made
    names = {path.name for path in report.page.parent.iterdir()}
    tables = {f"{name}.{kind}" for name in ("table1", "table2", "table3", "figure5") for kind in ("csv", "md", "tex")}
    assert names == {"report.html", "cells.csv"} | tables | {f"{n}.{k}" for n in NAMES for k in ("png", "svg")}
    assert {path.name for path in (*report.tables, *report.figures)} == names - {"report.html"}
    assert report.missing == sum(map(skip, cells)) == 15
    page = Page(report.page.read_text(encoding="utf-8"))
    assert f"{len(cells) - 15} of {len(cells)} cells evaluated; 15 missing" in page.text
    assert page.text.index("use GKD (SFT-S)") < page.text.index("What each method adds to SFT")
    assert page.text.index("What each method adds to SFT") < page.text.index("What held and what did not")


@pytest.mark.long
def test_every_link_leads_somewhere(made: tuple[list[Cell], StudyReport]) -> None:
    cells, report = made
    html = report.page.read_text(encoding="utf-8")
    page = Page(html)
    ids = re.findall(r' id="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    inside = [address[1:] for address in page.addresses if address.startswith("#")]
    assert set(inside) <= set(ids)
    outside = {address for address in page.addresses if not address.startswith("#")}
    found = {Path(os.path.normpath(report.page.parent / unquote(address))) for address in outside}
    there = {cell.folder for cell in cells if not skip(cell)}
    assert found == there | {folder / "examples.jsonl" for folder in there}
    assert all(path.exists() for path in found)


@pytest.mark.long
def test_page_is_self_contained(made: tuple[list[Cell], StudyReport]) -> None:
    html = made[1].page.read_text(encoding="utf-8")
    page = Page(html)
    assert not {"script", "img", "link", "iframe"} & set(page.tags)
    assert not re.findall(r"url\((?!#)|@import", html)
    assert "default-src 'none'" in html
    assert all(address.startswith(("#", "./")) for address in page.addresses)


@pytest.mark.long
def test_csv_has_the_numbers_the_paper_and_what_is_missing(made: tuple[list[Cell], StudyReport]) -> None:
    folder = made[1].page.parent
    rows = list(csv.DictReader((folder / "table1.csv").open(encoding="utf-8")))
    by_key = {(row["student"], row["method"], row["task"]): row for row in rows}
    seqkd = by_key[STUDENTS[1], "seqkd", "bbh"]
    assert (seqkd["value"], seqkd["seeds"], seqkd["seeds_missing"], seqkd["paper"]) == ("", "", "0 1 2", "42.22")
    sft = by_key[STUDENTS[1], "sft", "average"]
    assert (float(sft["value"]) > 0, sft["paper"], sft["seeds"]) == (True, "51.57", "0 1 2")
    every = list(csv.DictReader((folder / "cells.csv").open(encoding="utf-8")))
    gains = [r for r in every if (r["method"], r["task"], r["size"]) == ("gkd_sft", "average", "10000")]
    assert all(float(row["low"]) > 0 and row["significant"].startswith("*") for row in gains)


@pytest.mark.long
def test_markdown_and_latex_tables_are_well_formed(made: tuple[list[Cell], StudyReport]) -> None:
    folder = made[1].page.parent
    for n in (1, 2, 3):
        lines = [line for line in (folder / f"table{n}.md").read_text("utf-8").splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in lines}) == 1
        tex = (folder / f"table{n}.tex").read_text("utf-8")
        body = tex[tex.index("\\midrule") : tex.index("\\bottomrule")]
        columns = len(re.findall("[lr]", re.findall(r"tabular}{(\w+)}", tex)[0]))
        rows = [line for line in body.splitlines() if line.endswith("\\\\")]
        assert rows
        assert {line.count("&") for line in rows} == {columns - 1}
    assert "\\textit{missing}" in (folder / "table1.tex").read_text("utf-8")
    assert "\\textbf{" in (folder / "table2.tex").read_text("utf-8")


@pytest.mark.long
def test_figures_show_missing_cells_and_the_paper(made: tuple[list[Cell], StudyReport]) -> None:
    folder = made[1].page.parent
    texts = {}
    for name in NAMES:
        root = ElementTree.parse(folder / f"{name}.svg").getroot()
        texts[name] = " ".join(" ".join(root.itertext()).split())
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert "×" in texts["answer"]
    assert "×" not in texts["figure2"]
    assert "SFT, the paper" in texts["figure2"]
    assert "the paper" in texts["figure4"]
    assert not [name for name in ("figure1", "figure3", "figure5") if "the paper" in texts[name]]


@pytest.mark.usefixtures("_vectors_alone")
@pytest.mark.long
def test_an_empty_study_and_one_of_other_models_report_too(tmp_path: Path) -> None:
    cells = plan(tmp_path / "runs", seeds=(0,))
    page = Page(write_study_report("empty", cells, tmp_path / "out", True).page.read_text("utf-8"))
    assert f"0 of {len(cells)} cells evaluated" in page.text
    assert "Nothing can be compared with SFT yet." in page.text
    few = [dataclasses.replace(c, student="cut-64m") for c in cells if c.student == STUDENTS[0] and c.task == "ifeval"]
    few = [c for c in few if c.method in ("sft", "gkd_sft")]
    report = write_study_report("other", few, tmp_path / "other", True)
    text = report.page.read_text("utf-8")
    assert "The study has no SeqKD cells." in text
    figure = " ".join(ElementTree.parse(tmp_path / "other" / "figure2.svg").getroot().itertext())
    assert "The paper's students" in figure
    assert figure.count("no scores") == 1  # the study's panel; the paper's own is whole
    assert "The study has no domain tasks." in (tmp_path / "other" / "table2.md").read_text("utf-8")


@pytest.mark.usefixtures("_vectors_alone")
def test_losses_over_training_are_drawn_for_each_size(tmp_path: Path) -> None:
    cells = [c for c in plan(tmp_path, seeds=(0,), general=("ifeval",)) if c.method in ("sft", "gkd_sft", "gkd_it")]
    cells = [c for c in cells if c.task == "ifeval"]
    made_from = []
    for number, cell in enumerate(cells):
        trained = tmp_path / f"trained{number}"
        trained.mkdir()
        lines = [{"step": n, "loss": 0.3 - 0.01 * number + 0.001 * n} for n in range(50)]
        (trained / "metrics.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
        made_from.append((cell.folder, [tmp_path / "a judge, without a log", trained]))
    logs = training_logs(made_from)
    assert logs[cells[3].folder] == tmp_path / "trained3"
    (figure,) = loss_figures(build_study(cells), logs)
    assert [panel.title for panel in figure.panels][:2] == ["Llama-3.2-1B, GKD (SFT-S)", "Llama-3.2-1B, GKD-IT"]
    assert isinstance(figure.panels[0], CurvePanel)
    first = figure.panels[0].curves
    assert [curve.look.label for curve in first] == ["10k", "80k", "939k"]
    assert len({curve.look.color for curve in first}) == 3
    assert (first[0].y[0], first[0].y[-1], len(first[0].y)) == (pytest.approx(0.29), pytest.approx(0.339), 50)
    report = write_study_report("losses", cells, tmp_path / "out", True, logs)
    assert (tmp_path / "out" / "losses.png").is_file()
    assert "The loss of distilling over training" in report.page.read_text("utf-8")


@pytest.mark.usefixtures("_vectors_alone")
@pytest.mark.long
def test_hostile_text_is_shown_and_never_run(tmp_path: Path) -> None:
    cells = plan(tmp_path / "runs", seeds=(0,), general=("ifeval", "bbh"))
    cells = [c for c in cells if c.size == 10_000 and c.student == STUDENTS[0]]
    for cell in cells:
        evaluate(cell, 12, hostile)
    cells = [dataclasses.replace(c, student=HOSTILE, teacher=c.teacher and HOSTILE) for c in cells]
    report = write_study_report(HOSTILE, cells, tmp_path / "out", include_text=True)
    html = report.page.read_text(encoding="utf-8")
    page = Page(html)
    assert not {"script", "img"} & set(page.tags)
    assert page.handlers == []
    assert page.text.count(HOSTILE) > 10
    bare, removed = re.subn(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", html)
    assert removed == 1
    rendered = opened(bare, tmp_path)  # without the policy line, so that escaping alone has to hold
    assert "<title>owned</title>" not in rendered
    assert "How the numbers were computed" in rendered
    assert not {"script", "img"} & set(Page(rendered).tags)
    for name in NAMES:
        root = ElementTree.parse(tmp_path / "out" / f"{name}.svg").getroot()
        assert not [e for e in root.iter() if e.tag.endswith(("script", "img"))]


@pytest.mark.usefixtures("_vectors_alone")
def test_texts_can_be_left_out(tmp_path: Path) -> None:
    cells = make_study(tmp_path / "runs", 8, lambda c: c.seed > 0 or c.task != "ifeval")
    report = write_study_report("quiet", cells, tmp_path / "out", include_text=False)
    for path in report.page.parent.iterdir():
        if path.suffix != ".png":
            assert "says 3" not in path.read_text("utf-8")
            assert "Question 3 of" not in path.read_text("utf-8")
    assert "may not be published" in report.page.read_text("utf-8")


@pytest.mark.long
def test_a_phone_shows_the_page_without_scrolling_sideways(
    made: tuple[list[Cell], StudyReport], tmp_path: Path
) -> None:
    html = made[1].page.read_text("utf-8")
    html = html.replace("default-src 'none';", "default-src 'none'; script-src 'unsafe-inline';")
    (tmp_path / "inner.html").write_text(
        html + "<script>const e = document.documentElement;"
        "parent.postMessage(`${e.scrollWidth} of ${e.clientWidth}`, '*')</script>", encoding="utf-8"
    )  # fmt: skip
    frame = (
        '<title>waiting</title><script>addEventListener("message", (e) => { document.title = e.data; });</script>'
        '<iframe src="inner.html" style="width:390px;height:800px;border:0"></iframe>'
    )
    found = re.findall(r"<title>(\d+) of (\d+)</title>", opened(frame, tmp_path, "--virtual-time-budget=8000"))
    assert [wide == there and 370 <= int(there) <= 390 for wide, there in found] == [True]


@pytest.mark.usefixtures("undrawn")
def test_the_command_reports_a_study_that_has_not_been_run(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workshop.folder)
    main(["report", str(write_study(workshop)), "--out", "report", "--runs", "runs"])
    assert "6 of 6 cells are missing" in capsys.readouterr().out
    assert "0 of 6 cells evaluated" in Path("report/report.html").read_text("utf-8")


def opened(html: str, folder: Path, *more: str) -> str:
    """The page's DOM after a real browser has opened it."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium on the path to open the page in")
    path = folder / "opened.html"
    path.write_text(html, encoding="utf-8")
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    command = [browser, *flags.split(), *more, f"--user-data-dir={folder / 'profile'}", "--dump-dom", path.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=HANG, check=True).stdout
