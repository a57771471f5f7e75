from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest
from pages import Page
from waiting import HANG

from tutelage.evaluation.page import embedded_json, write_page
from tutelage.evaluation.records import ExampleRecord, write_records, write_result

HOSTILE = (
    "</script></div><img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script><!--{{ 7*7 }}"
)
METRICS = {"accuracy": {"value": 40.0, "stderr": 1.5}, "accuracy_weighted": {"value": None, "stderr": None}}
VALUES = (1.0, 0.0, None, 0.0, 0.5)


def record(n: int) -> ExampleRecord:
    return ExampleRecord(
        id=f"{'ab'[n % 2]}/{n:04}",
        prompt=f"question {n}: which letter?",
        response=f"I think that it is letter {n}.\nYes.",
        references=(f"target{n}",),
        scores={"accuracy": VALUES[n % 5], "loose": 1.0},
        answer=None if n % 5 == 2 else f"letter {n}",
        reason=f"because of {n}",
        finished=n % 10 != 3,
        tokens=n,
        group=f"group {'ab'[n % 2]}",
    )


def write(folder: Path, records: list[ExampleRecord], **more: object) -> Path:
    write_records(folder, records)
    groups = {"group a": {"n": 5, "value": 30.0, "stderr": 2.0}, "group b": {"n": 5, "value": 50.0, "stderr": None}}
    result = {"task": "a_task", "model": "a model", "n": len(records), "unscored": 2, "headline": "accuracy"}
    write_result(folder, {**result, "metrics": METRICS, "groups": groups, **more})
    return folder


@pytest.fixture(scope="session")
def dom(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """The page after its script has run, as a browser holds it."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium on the path to open the page in")
    profile = tmp_path_factory.mktemp("profile")
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"

    def opened(path: Path, state: str = "") -> str:
        address = f"{path.as_uri()}#{state}"
        command = [browser, *flags.split(), f"--user-data-dir={profile}", "--virtual-time-budget=3000", "--dump-dom"]
        html = subprocess.run([*command, address], capture_output=True, text=True, timeout=HANG, check=True).stdout
        return re.sub(r"<script.*?</script>", "", html, flags=re.S)  # the data in its own element is not on show

    return opened


def ids(html: str) -> list[str]:
    return re.findall(r'class="id">(.*?)</b>', html)


def test_the_page_stands_alone_and_runs_its_own_script_only(tmp_path: Path) -> None:
    path = write_page(write(tmp_path, [record(n) for n in range(10)]))
    assert path == tmp_path / "examples.html"
    html = path.read_text(encoding="utf-8")
    page = Page(html)
    assert not {"img", "link", "iframe"} & set(page.tags)
    assert page.handlers == []
    assert not re.findall(r"""\s(?:src|href)=|url\(|@import""", html)
    assert re.search(r"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-[\w+/]{43}='", html)
    assert "a_task a model · 10 examples · 2 unscored · 1 cut at the length limit" in page.text
    assert "accuracy 40.00 ± 1.50 accuracy weighted unknown" in page.text
    assert "± is the standard error: how far a mean would move with other examples. By the metric" in page.text
    assert "A click on its line opens it: the prompt, the whole response and the target." in page.text


def test_json_cannot_leave_its_element() -> None:
    value = {"a": f"{HOSTILE}\u2028\ud800", "b": [None, 1.5]}
    text = embedded_json(value)
    assert not set("<>&") & set(text)
    assert json.loads(text) == value


@pytest.mark.parametrize("lead", ["", "a"])
@pytest.mark.slow
def test_a_snippet_never_ends_within_a_letter(tmp_path: Path, dom: Callable[..., str], lead: str) -> None:
    """Each of these letters is two units of a script's text, and the snippet's border falls between them."""
    text = lead + "🛶" * 120
    path = write_page(write(tmp_path, [dataclasses.replace(record(1), prompt=text, response=f"{text} hit {text}")]))
    for state in ("", "q=hit"):
        assert "\ufffd" not in dom(path, state)


@pytest.mark.slow
@pytest.mark.long
def test_filters(tmp_path: Path, dom: Callable[..., str]) -> None:
    path = write_page(write(tmp_path, [record(n) for n in range(20)]))
    everything = dom(path)
    assert len(ids(everything)) == 20
    counts = dict(re.findall(r'id="show-(\w+)"[^>]*>\w+<span>([\d,]+)</span>', everything))
    assert counts == {"all": "20", "right": "4", "partly": "4", "wrong": "8", "unscored": "4", "cut": "2"}
    assert "said letter 1, target target1" in Page(everything).text
    assert "said nothing, target target2" in Page(everything).text
    assert "20 of 20 examples, mean 37.5" in Page(everything).text
    assert ids(dom(path, "show=wrong")) == [
        "b/0001",
        "b/0003",
        "a/0006",
        "a/0008",
        "b/0011",
        "b/0013",
        "a/0016",
        "a/0018",
    ]
    assert ids(dom(path, "show=unscored&group=group+b")) == ["b/0007", "b/0017"]
    assert ids(dom(path, "show=cut&metric=loose")) == ["b/0003", "b/0013"]
    assert ids(dom(path, "show=right&metric=loose&sort=longest"))[:2] == ["b/0019", "a/0018"]
    assert "No example passes these filters." in dom(path, "show=right&q=nowhere+to+be+found")
    assert len(ids(dom(path, "show=nonsense&group=none&metric=bleu"))) == 20


@pytest.mark.slow
@pytest.mark.long
def test_search_finds_every_text_and_opens_a_single_example(tmp_path: Path, dom: Callable[..., str]) -> None:
    path = write_page(write(tmp_path, [record(n) for n in range(20)]))
    for words in ("QUESTION 13:", "letter 13.", "target13", "because of 13", "b/0013"):
        html = dom(path, f"q={quote(words)}")
        assert [re.sub("</?mark>", "", id) for id in ids(html)] == ["b/0013"]
        text = Page(re.sub("</?mark>", "", html)).text
        for shown in ("question 13: which letter?", "I think that it is letter 13. Yes.", "target13", "because of 13"):
            assert shown in text
        assert re.search(rf"<mark>{re.escape(words)}</mark>", html, re.I)
        assert "13 tokens · cut at the length limit" in text


@pytest.mark.slow
def test_parts_are_listed_with_their_verdicts(tmp_path: Path, dom: Callable[..., str]) -> None:
    parts = (
        {"name": "Is it short?", "scores": {"drfr": 1.0}, "answer": "yes", "labels": ["Format", "Number"]},
        {"name": "Is it kind?", "scores": {"drfr": 0.0}, "answer": "no", "labels": []},
        {"name": "Is it blue?", "scores": {"drfr": None}, "answer": None},
    )
    one = ExampleRecord("1", "p", "r", ("q",), {"drfr": 0.5}, "r", "1 of 2", True, 3, "", parts)
    text = Page(dom(write_page(write(tmp_path, [one], headline="drfr")))).text
    assert "right Is it short? answer: yes; labels: Format, Number" in text
    assert "wrong Is it kind? answer: no" in text
    assert "unscored Is it blue?" in text


@pytest.mark.slow
def test_thousands_of_examples_are_drawn_as_they_are_needed(tmp_path: Path, dom: Callable[..., str]) -> None:
    path = write_page(write(tmp_path, [record(n) for n in range(12_000)]))
    html = dom(path)
    assert 60 <= len(ids(html)) <= 240  # what fills the window, not all
    assert "12,000 of 12,000 examples" in html
    assert 'class="body"' not in html  # an example's texts are made when it is opened
    assert re.search(r"Show more \(11,\d\d0 left\)", html)
    assert len(html) < 200_000


@pytest.mark.slow
def test_texts_can_be_left_out(tmp_path: Path, dom: Callable[..., str]) -> None:
    folder = write(tmp_path, [record(n) for n in range(20)])
    path = write_page(folder, tmp_path / "public.html", include_text=False)
    html = path.read_text(encoding="utf-8")
    for word in ("question", "I think", "target1", "letter 1", "because of"):
        assert word not in html
    assert "may not be published" in html
    assert ids(dom(path, "show=right")) == ["a/0000", "b/0005", "a/0010", "b/0015"]
    assert "accuracy 100 · loose 100 · 5 tokens" in Page(dom(path, "q=b%2F0005")).text


@pytest.mark.slow
@pytest.mark.long
def test_hostile_output_does_not_run(tmp_path: Path, dom: Callable[..., str]) -> None:
    parts = ({"name": HOSTILE, "scores": {HOSTILE: 1.0}, "answer": HOSTILE, HOSTILE: {"x": HOSTILE}},)
    texts = (HOSTILE, HOSTILE, (HOSTILE,), {HOSTILE: 1.0}, HOSTILE + "!", HOSTILE)
    records = [ExampleRecord(f"{n}{HOSTILE}", *texts, True, 1, HOSTILE, parts) for n in range(3)]
    names = {"task": HOSTILE, "model": HOSTILE, "headline": HOSTILE, "metrics": {HOSTILE: METRICS["accuracy"]}}
    path = write_page(write(tmp_path, records, **names, groups={HOSTILE: {"n": 1, "value": 0.0, "stderr": None}}))
    html = path.read_text(encoding="utf-8")
    naive = tmp_path / "naive.html"
    naive.write_text(f"<title>page</title>{HOSTILE}")
    assert "<title>owned</title>" in dom(naive)  # the string does run where nothing is escaped
    bare = tmp_path / "bare.html"
    stripped, removed = re.subn(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", html)
    assert removed == 1  # escaping alone has to hold
    bare.write_text(stripped, encoding="utf-8")
    for state in ("", f"q=1{quote(HOSTILE)}"):
        rendered = dom(bare, state)
        assert "<title>owned</title>" not in rendered
        assert "img" not in Page(rendered).tags
        assert Page(rendered).handlers == []
        assert "49" not in Page(rendered).text
    assert Page(rendered).text.count("document.title='owned'") >= 12  # an opened example, shown as it is
    # and a script that got in all the same would not be run by the policy
    smuggled = tmp_path / "smuggled.html"
    smuggled.write_text(html.replace("<main>", "<main><script>document.title='owned'</script>"), encoding="utf-8")
    assert "<title>owned</title>" not in dom(smuggled)
    assert ids(dom(smuggled))


@pytest.mark.slow
def test_controls_and_opening(tmp_path: Path, dom: Callable[..., str]) -> None:
    """What a reader clicks and types, done by a script in a copy of the page without its policy."""
    html = write_page(write(tmp_path, [record(n) for n in range(20)])).read_text(encoding="utf-8")
    driver = """<script>
    document.getElementById("show-wrong").click();
    document.querySelector('button[data-group="group b"]').click();
    const box = document.getElementById("q");
    box.value = "letter 1"; box.dispatchEvent(new Event("input"));
    setTimeout(() => document.querySelector("#rows summary").click(), 500);
    </script>"""
    html = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", html).replace("</body>", f"{driver}</body>")
    driven = tmp_path / "driven.html"
    driven.write_text(html, encoding="utf-8")
    rendered = dom(driven)
    assert [re.sub("</?mark>", "", id) for id in ids(rendered)] == ["b/0001", "b/0011", "b/0013"]
    assert rendered.count('class="body"') == 1
    assert "question 1: which letter?" in Page(rendered).text


def test_recipe_evaluations_have_pages_too(tmp_path: Path) -> None:
    """Results without groups, as a recipe's stage writes them."""
    write_records(tmp_path, [record(1)])
    result = {"task": "t", "model": "gkd", "seed": 0, "n": 1, "unscored": 0, "headline": "accuracy", "metrics": METRICS}
    write_result(tmp_path, result)
    assert "gkd · 1 example · seed 0" in Page(write_page(tmp_path).read_text()).text


@pytest.mark.slow
def test_metrics_are_called_as_in_reports(tmp_path: Path, dom: Callable[..., str]) -> None:
    scores: dict[str, float | None] = {"rouge_l": 0.5, "exact_match": 0.0}
    write_records(tmp_path, [dataclasses.replace(record(1), scores=scores)])
    metrics = {"rouge_l": {"value": 50.0, "stderr": None}, "exact_match": {"value": 0.0, "stderr": None}}
    result = {"task": "t", "model": "gkd", "n": 1, "unscored": 0, "headline": "rouge_l", "metrics": metrics}
    write_result(tmp_path, result)
    path = write_page(tmp_path)
    text = Page(path.read_text(encoding="utf-8")).text
    assert "ROUGE-L 50.00 exact match 0.00" in text
    assert "±" not in text
    shown = Page(dom(path)).text
    assert "ROUGE-L 50 · exact match 0 · 1 tokens" in shown
    assert shown.count("rouge l") == 0
