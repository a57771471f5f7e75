"""The manual builds without a warning, has every command and every page, and loads nothing from elsewhere."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tutelage

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


def build(config: Path, out: Path) -> subprocess.CompletedProcess[str]:
    if importlib.util.find_spec("mkdocs") is None or importlib.util.find_spec("material") is None:
        pytest.skip("pip install 'tutelage[docs]' to build the manual")
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--config-file",
        str(config),
        "--site-dir",
        str(out),
    ]
    paths = [str(Path(tutelage.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    variables = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.run(command, capture_output=True, text=True, env=variables, check=False)


@pytest.mark.long
def test_the_manual_builds_and_is_whole(tmp_path: Path) -> None:
    done = build(ROOT / "mkdocs.yml", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    pages = {
        path.relative_to(tmp_path).as_posix(): path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.html")
    }
    assert {"index.html", "tutorial.html", "cli.html", "api.html", "results/demo.html", "log.html"} <= set(pages)
    for verb in ("run", "watch", "study plan", "data inspect"):
        assert f'id="tutelage-{verb.replace(" ", "-")}"' in pages["cli.html"], verb
    for name in getattr(tutelage, "__all__", ()):
        assert f'id="{name.lower()}"' in pages["api.html"], name
    assert re.search(r'<a href="models.html">models</a>', pages["index.html"])  # README: docs/models.md
    assert '<a href="log.html">LOG.md</a>' in "".join(pages.values())
    assert "<table>" in re.split("keys: RecipeConfig", pages["recipe.html"])[-1][:100]  # it follows a comment directly
    for path, page in pages.items():
        loaded = re.findall(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=[\"']?(?:https?:)?//[^>]*>", page)
        assert [tag for tag in loaded if 'rel="canonical"' not in tag] == [], path


@pytest.mark.long
def test_a_dead_link_a_dead_anchor_and_a_page_without_a_place_are_refused(tmp_path: Path) -> None:
    for name in ("docs", "scripts"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for file in [ROOT / "mkdocs.yml", *ROOT.glob("*.md")]:
        shutil.copy(file, tmp_path)
    text = (tmp_path / "docs" / "watch.md").read_text()
    (tmp_path / "docs" / "watch.md").write_text(
        f"{text}\n[a](nowhere.md) [b](recipe.md#nowhere) [c](../pyproject.toml)\n"
    )
    (tmp_path / "docs" / "new.md").write_text("# New\n")
    done = build(tmp_path / "mkdocs.yml", tmp_path / "out")
    assert done.returncode != 0
    warnings = [line for line in done.stderr.splitlines() if "WARNING" in line]
    assert len(warnings) == 3
    for said in ("'nowhere.md'", "'recipe.md#nowhere'", "not included in the"):
        assert any(said in line for line in warnings), said
