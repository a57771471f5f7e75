from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from fake_run import make_run

from tutelage.evaluate.records import ExampleRecord
from tutelage.report import build_report

HOSTILE = (
    "</script></div><img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>{{ 7*7 }}"
)


class Page(HTMLParser):
    """What a page is made of: tags, addresses, and its visible text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.handlers: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def hostile(stage: str, records: list[ExampleRecord]) -> list[ExampleRecord]:
    return [
        dataclasses.replace(
            record, id=f"{n}{HOSTILE}", prompt=HOSTILE, response=HOSTILE, references=(HOSTILE,), reason=HOSTILE
        )
        for n, record in enumerate(records)
    ]


@pytest.fixture(scope="module")
def hostile_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    manifest = make_run(tmp_path_factory.mktemp("hostile"), count=5, change=hostile)
    manifest |= {"recipe": HOSTILE, "description": HOSTILE, "facts": [{"label": HOSTILE, "value": HOSTILE}]}
    for row in manifest["rows"]:
        row |= {"label": HOSTILE, "note": HOSTILE, "chosen": {HOSTILE: HOSTILE}}
    return build_report(manifest, Path(manifest["root"]) / "report")


def test_page_and_files(tmp_path: Path) -> None:
    manifest = make_run(tmp_path, count=40)
    path = build_report(manifest, tmp_path / "report")
    assert path == tmp_path / "report" / "report.html"
    names = ["loss.png", "loss.svg", "report.html", "scores.png", "scores.svg", "table.csv", "table.md"]
    assert sorted(file.name for file in path.parent.iterdir()) == names
    page = Page(path.read_text(encoding="utf-8"))
    assert page.text.index("GKD (SFT-S) scores ") < page.text.index("How the numbers were computed")
    assert page.text.index(" on test, ") < page.text.index("settings were chosen on this task")
    assert page.tags.count("table") == 4  # two tasks, two searches
    assert page.tags.count("details") == 8  # four first examples, two gains, two losses, of the test task alone
    assert page.text.count("among the largest gains of GKD (SFT-S) against SFT") == 2
    assert page.text.count("among the largest losses of GKD (SFT-S) against SFT") == 2
    assert page.text.count(" agree to ") >= 8  # every sample's first reference
    assert "This page makes 20 comparisons." in page.text
    assert "14300" in page.text


def test_page_is_self_contained(tmp_path: Path) -> None:
    html = build_report(make_run(tmp_path, count=3), tmp_path / "out").read_text(encoding="utf-8")
    page = Page(html)
    assert not {"script", "img", "link", "iframe"} & set(page.tags)
    assert all(address.startswith("#") for address in page.addresses)
    assert not re.findall(r"url\((?!#)|@import", html)
    assert "default-src 'none'" in html


def test_missing_evaluations_are_shown_and_do_not_crash(tmp_path: Path) -> None:
    manifest = make_run(tmp_path, count=5)
    manifest["rows"][3]["runs"][0] = {"seed": 0, "train": None, "evaluations": {}}
    manifest["rows"][4]["runs"] = [{"seed": 0, "train": "gone", "evaluations": {"test": "gone", "dev": "gone"}}]
    manifest |= {"search": None, "facts": []}
    page = Page(build_report(manifest, tmp_path / "out").read_text(encoding="utf-8"))
    assert "GKD (SFT-S) has 2 of 3 seeds so far." in page.text
    assert "KD on the data only has no test scores yet, so nothing can be said about it." in page.text
    nothing = manifest | {"rows": [row | {"runs": []} for row in manifest["rows"]]}
    page = Page(build_report(nothing, tmp_path / "out").read_text(encoding="utf-8"))
    assert "No answers have been evaluated yet." in page.text
    page = Page(build_report(manifest | {"reference": None}, tmp_path / "out").read_text(encoding="utf-8"))
    assert "No reference row is named, so no difference was tested." in page.text


def test_texts_can_be_left_out(tmp_path: Path) -> None:
    manifest = make_run(tmp_path, count=5)
    html = build_report(manifest, tmp_path / "out", include_text=False).read_text(encoding="utf-8")
    assert "agree to" not in html
    assert "Summarize this dialogue" not in html
    assert "may not be published" in html
    assert all(
        "agree to" not in (tmp_path / "out" / name).read_text() for name in ("table.csv", "table.md", "loss.svg")
    )


def test_hostile_output_stays_text(hostile_page: Path) -> None:
    page = Page(hostile_page.read_text(encoding="utf-8"))
    assert not {"script", "img"} & set(page.tags)
    assert page.handlers == []
    assert page.text.count(HOSTILE) > 20  # shown as it is, neither dropped nor evaluated


def test_hostile_output_does_not_run_in_a_browser(hostile_page: Path, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium on the path to open the page in")
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"

    def dom(path: Path) -> str:
        command = [browser, *flags.split(), f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", path.as_uri()]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout

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
