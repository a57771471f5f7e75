"""Links and paths of the documentation exist: links, anchors, pages that code names, code that pages name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "tutelage"
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
SOURCES = [path for folder in ("src", "recipes", "bench", "scripts", "tests") for path in (ROOT / folder).rglob("*.*")]
TEXTS = [path for path in SOURCES if path.suffix in (".py", ".yaml", ".j2") and path != Path(__file__)]

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
DOCUMENT = re.compile(r"(?:docs/(?:results/)?\w+|\b(?:README|CONTRIBUTING|CHANGELOG|LOG))\.md(?:#[\w-]+)?")
CODE = re.compile(r"(?<![\w/.…$])((?:\w+/)+\w+\.(?:py|yaml|j2))\b")


def prose(page: Path) -> str:
    return re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def problem(link: str, folder: Path, page: Path | None = None) -> str | None:
    """Why a link from a file in `folder` leads nowhere, or None."""
    path, _, anchor = link.partition("#")
    target = (folder / path).resolve() if path else page
    if target is None or not target.exists():
        return f"{link}: no such file"
    if anchor and anchor not in anchors(target):
        return f"{link}: {target.name} has no such heading"
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_anchors_of_a_page_exist(page: Path) -> None:
    links = [link for link in LINK.findall(prose(page)) if not link.startswith(("http:", "https:", "mailto:"))]
    assert [found for link in links if (found := problem(link, page.parent, page))] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_code_that_a_page_names_exists(page: Path) -> None:
    """`training/trainer.py` is below src/tutelage; bench/, recipes/, scripts/ and tests/ are below the root."""
    text = page.read_text(encoding="utf-8")
    modules = [ROOT / name.replace(".", "/") for name in re.findall(r"-m (bench[.\w]+)", text)]
    files = [path / "__main__.py" if path.is_dir() else path.with_suffix(".py") for path in modules]
    named = CODE.findall(text) + [str(path.relative_to(ROOT)) for path in files]
    assert [path for path in named if not (SOURCE / path).exists() and not (ROOT / path).exists()] == []


def test_functions_and_tables_that_contributing_names_exist() -> None:
    """`training/trainer.py:Trainer.step` is `def step` in that file; tables are assigned."""
    named = re.findall(r"`([\w/]+\.py):([\w.]+)`", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    assert len(named) > 30
    for path, name in named:
        last = re.escape(name.rsplit(".", 1)[-1])
        assert re.search(rf"^ *(def|class) {last}\b|^{last}\b.*=", (SOURCE / path).read_text("utf-8"), re.MULTILINE), (
            name
        )


def test_documents_that_code_names_exist() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {why}"
        for path in TEXTS
        for name in DOCUMENT.findall(path.read_text(encoding="utf-8"))
        if name.startswith("docs/") and (why := problem(name, ROOT))
    ]
    assert found == []


def test_the_tree_of_the_readme_is_the_tree_of_the_code() -> None:
    lines = re.findall(r"^[├└]── (\w+)/ +(.*)$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert {name for name, _ in lines} == {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    for package, text in lines:
        for name in re.findall(r"\w+\.py|\w+(?=/)", text):
            assert (SOURCE / package / name).exists(), f"{package}/{name}"


def test_a_dead_link_and_a_dead_anchor_are_seen() -> None:
    readme = ROOT / "README.md"
    assert problem("docs/nowhere.md", ROOT) == "docs/nowhere.md: no such file"
    assert problem("#nowhere", ROOT, readme) == "#nowhere: README.md has no such heading"
    assert problem("docs/method.md#resume", ROOT) is None
    assert CODE.findall("`training/trainer.py`, python bench/ranks.py, $X/a/b.py") == [
        "training/trainer.py",
        "bench/ranks.py",
    ]
