"""Pages of recipes, studies and forecasts at the width of a phone, in a browser: wide tables show that they go on."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html import unescape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_forecast import fake_forecast
from fake_run import make_run
from fake_study import make_study
from waiting import HANG

from tutelage.forecasting.page import write_forecast
from tutelage.report.recipe.page import build_report
from tutelage.report.study.page import write_study_report
from tutelage.runs.recipe_results import TrainedModel
from tutelage.runs.rows.notes import SectionRows

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("undrawn")]

MEASURE = """<script>
const width = document.documentElement.clientWidth, seen = one => one.offsetParent !== null;
const lines = one => {
  const range = document.createRange();
  range.selectNodeContents(one.firstElementChild ?? one);
  return range.getClientRects().length;
};
const beyond = one => one.getBoundingClientRect().right > width + 1;
const tables = [...document.querySelectorAll("table")].filter(one => seen(one) && beyond(one));
document.title = JSON.stringify({
  page: document.documentElement.scrollWidth > width,
  unsaid: tables.filter(one => !getComputedStyle(one.closest(".scroll") ?? one).backgroundImage.includes("gradient"))
    .map(one => one.className),
  wide: tables.map(one => one.className),
  cut: [...document.querySelectorAll("code")].filter(one => seen(one) && (beyond(one) || beyond(one.parentElement)
    || one.parentElement.scrollWidth > one.parentElement.clientWidth + 1)).map(one => one.textContent),
  broken: [...document.querySelectorAll(".data td")].filter(one => /^\S+$/.test(one.textContent)
    && lines(one) > 1).map(one => one.textContent),
  pairs: [...document.querySelectorAll(".pairs")].map(
    one => [...one.querySelectorAll("td")].filter(cell => seen(cell) && cell.textContent.trim()).length),
});
</script>"""


def measured(page: Path, width: int = 390) -> dict[str, Any]:
    """What the browser says of the page: is it wider than its window, which tables are, and which do not show it."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium on the path to open the page in")
    html = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text("utf-8"))
    # A window of a headless browser may be no narrower than 500 pixels; a frame may.
    (page.parent / "inner.html").write_text(html + MEASURE.replace("document.title =", "top.document.title ="), "utf-8")
    outer = page.parent / "outer.html"
    outer.write_text(f'<title></title><iframe src="inner.html" style="width: {width}px; height: 900px"></iframe>')
    usual = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    flags = [*usual.split(), "--allow-file-access-from-files", f"--user-data-dir={page.parent / 'profile'}"]
    command = [browser, *flags, "--window-size=1400,1000", "--dump-dom", outer.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=HANG, check=True).stdout
    return json.loads(unescape(re.findall("<title>(.*?)</title>", dom)[0]))


def test_a_recipes_pairs_are_rows_each_once(tmp_path: Path) -> None:
    results = make_run(tmp_path, count=5)
    uses = "loss is measured on while training, settings are chosen on, scored on"
    sections = (
        SectionRows("test", "a_file_with_a_long_name_that_no_phone_has_room_for.jsonl", uses, 9, ()),
        SectionRows("a_section_of_a_long_name", "returns.csv", uses, 209, ()),
        SectionRows("heal", "healing-rows.jsonl", "trained on", 320, ()),
    )
    folder = tmp_path / "runs" / "a-run-of-a-long-name-s0-0123456789"
    run: Any = SimpleNamespace(folder=folder, done=True, kind="distill")
    models = (TrainedModel("gkd", "GKD", None, run, {}),)
    shown = replace(results, tasks={"test": results.tasks["test"]}, sections=sections, models=models)
    page = build_report(shown, tmp_path / "out")
    found = measured(page)
    assert found.pop("broken") == [sections[0].source]  # a name that fits is whole
    assert found == {"page": False, "unsaid": [], "wide": [], "cut": [], "pairs": [10]}  # of five models
    assert measured(page, 1280)["pairs"] == [20]  # each from both sides


@pytest.mark.long
def test_tables_of_a_study_and_a_forecast_that_go_on_show_it(tmp_path: Path) -> None:
    study = write_study_report("tiny", make_study(tmp_path / "runs", 6), tmp_path / "study", include_text=True).page
    found = measured(study)
    assert (found["page"], found["unsaid"], found["cut"]) == (False, [], [])
    assert found["wide"]  # or the test tests nothing
    forecast = measured(write_forecast(fake_forecast(), tmp_path / "forecast", ["training.learning_rate=0.001"]))
    assert forecast == {"page": False, "unsaid": [], "wide": [], "cut": [], "broken": [], "pairs": []}
