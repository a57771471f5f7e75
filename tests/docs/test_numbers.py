"""Scores and differences in README.md and docs/results are those of a committed file: each "26.7 ± 0.4", each "+1.6
(1.0 to 2.2)"."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs/results"
NUMBER = r"[−+-]?\d[\d,]*\.?\d*"
SCORE = re.compile(rf"({NUMBER}) ± ({NUMBER})")
DIFFERENCE = re.compile(rf"(?<![\w.])({NUMBER})(?:, | \()({NUMBER}) to ({NUMBER})")
PAGES = [ROOT / "README.md", *sorted(RESULTS.glob("*.md"))]


def in_json(content: Any) -> Iterator[tuple[float, ...]]:
    """Scores with their errors in a JSON file; also with the error within the groups of fixed tasks."""
    if isinstance(content, dict):
        if content.get("stderr") is not None and content.get("value") is not None:
            yield content["value"], content["stderr"]
        groups = [one for one in (content.get("groups") or {}).values() if isinstance(one, dict) and one.get("metrics")]
        for name, score in (content.get("metrics") or {}).items() if groups else ():
            parts = [(one["n"], one["metrics"].get(name.removesuffix("_weighted"), {}).get("stderr")) for one in groups]
            if isinstance(score, dict) and None not in (score["value"], *(error for _, error in parts)):
                rows = sum(n for n, _ in parts)
                yield score["value"], math.hypot(*(error * n / rows for n, error in parts))
                yield score["value"], math.hypot(*(error / len(parts) for _, error in parts))
    for one in content.values() if isinstance(content, dict) else content if isinstance(content, list) else ():
        yield from in_json(one)


def known() -> tuple[set[tuple[float, ...]], set[tuple[float, ...]]]:
    """All scores with their errors, and all differences with their intervals, of the committed files."""
    scores = {found for file in RESULTS.rglob("*.json") for found in in_json(json.loads(file.read_text()))}
    differences: set[tuple[float, ...]] = set()
    for file in RESULTS.rglob("*.csv"):
        for row in csv.DictReader(file.read_text(encoding="utf-8").splitlines()):
            for names, found in (
                (("mean", "stderr"), scores),
                (("value", "stderr"), scores),
                (("difference", "low", "high"), differences),
                (("difference_to_sft", "low", "high"), differences),
            ):
                if all(row.get(name) for name in names):
                    found.add(tuple(float(row[name]) for name in names))
    return scores, differences | {(-middle, -high, -low) for middle, low, high in differences}


SCORES, DIFFERENCES = known()
REPORTS = [re.sub("<[^>]+>", "", file.read_text(encoding="utf-8")) for file in RESULTS.rglob("*.html")]


def is_in(shown: tuple[str, ...], files: set[tuple[float, ...]]) -> bool:
    """Whether some values in the files are the shown ones, but for their rounding; a missing sign is no mistake."""
    text = f"{shown[0]} ± {shown[1]}" if len(shown) == 2 else f"{shown[0]} ({shown[1]} to {shown[2]}"
    if any(text in report for report in REPORTS):
        return True
    plain = [text.replace(",", "").replace("−", "-") for text in shown]
    half = [0.5 * 10 ** -len(text.partition(".")[2]) * 1.001 for text in plain]
    wanted = [float(text) for text in plain]
    if shown[0][0] not in "+−-" and len(shown) == 3:
        files = files | {(abs(one[0]), *one[1:]) for one in files}
    return any(all(abs(a - b) <= h for a, b, h in zip(one, wanted, half, strict=True)) for one in files)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_scores_and_differences_have_a_file(page: Path) -> None:
    text = " ".join(page.read_text(encoding="utf-8").replace("**", "").split())
    found = [(match.groups(), SCORES) for match in SCORE.finditer(text)]
    found += [(match.groups(), DIFFERENCES) for match in DIFFERENCE.finditer(text)]
    assert [shown for shown, files in found if not is_in(shown, files)] == []


def in_bench(content: Any) -> Iterator[float]:
    """All numbers of a benchmark's file, the rate of each of several timed calls, and what a profile has beside named
    kernels together."""
    if isinstance(content, dict):
        small = ("element-wise and the rest", "fused by the compiler", "copies and casts")
        yield sum(content.get(name, 0.0) for name in small if isinstance(content.get(name), float))
        for seconds in content.get("seconds_each") or ():
            yield content.get("tokens_per_s", 0.0) * content["seconds"] / seconds
    elif isinstance(content, float | int):
        yield float(content)
    for one in content.values() if isinstance(content, dict) else content if isinstance(content, list) else ():
        yield from in_bench(one)


def test_rates_in_the_tables_of_performance_have_a_file() -> None:
    """Numbers from 1,000 on, but for goals."""
    files = [json.loads(file.read_text()) for file in (RESULTS / "bench").glob("*.json")]
    known = [number for content in files for number in in_bench(content)]
    missing, head = [], [""]
    for line in (ROOT / "docs/performance.md").read_text(encoding="utf-8").splitlines():
        cells = line.split("|") if line.startswith("|") else [""]
        head = cells if len(cells) != len(head) else head
        for name, cell in zip(head, cells, strict=True):
            for shown in re.findall(r"(?<![\w.,])\d{1,3}(?:,\d{3})+(?![\d,.])", "" if name.strip() == "goal" else cell):
                if not any(abs(number - float(shown.replace(",", ""))) <= 1 for number in known):
                    missing.append(shown)
    assert missing == []


@pytest.mark.parametrize("page", [page for page in PAGES if (page.with_suffix("") / "report.html").is_file()])
def test_the_number_of_comparisons_corrected_for_is_the_reports(page: Path) -> None:
    counts = re.findall(r"all (\d+) comparisons", " ".join(page.read_text(encoding="utf-8").split()))
    report = re.sub("<[^>]+>", "", (page.with_suffix("") / "report.html").read_text(encoding="utf-8"))
    assert counts
    assert set(counts) <= set(re.findall(r"all (\d+) comparisons", report))
