"""The order of the packages: each imports only packages below it, so it can be read knowing only those."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "tutelage"

# Which packages a package may import. `tutelage/__init__.py` imports api on use; `__main__.py` only starts the cli.
ALLOWED: dict[str, str] = {
    "common": "",
    "recipe": "common",
    "watch": "common",
    "loss": "common",
    "data": "common recipe",
    "models": "common recipe data loss",
    "sampling": "common recipe data loss models",
    "synthesis": "common recipe data sampling",
    "evaluation": "common recipe data models sampling",
    "teachers": "common recipe data loss models sampling",
    "training": "common recipe data loss models sampling teachers",
    "runs": "common recipe data loss models sampling synthesis evaluation teachers training",
    "study": "common recipe evaluation runs",
    "report": "common evaluation runs study",
    "forecasting": "common recipe data evaluation runs report",
    "delivery": "common recipe data models evaluation runs report",
    "start": "common recipe loss data models synthesis evaluation runs delivery",
    "api": "common recipe data models evaluation teachers training runs report forecasting delivery",
    "cli": "common recipe teachers data watch evaluation runs study report forecasting delivery start api",
}
FILES = sorted(path for path in SOURCE.rglob("*.py") if len(path.relative_to(SOURCE).parts) > 1)


def imports_of(source: str) -> set[str]:
    """Full names of the project's modules that a file imports, at its top or inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide which package is meant"
            found.add(node.module or "")
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return {name for name in found if name.startswith("tutelage.")}


def module_of(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def violations(package: str, imported: set[str]) -> set[str]:
    return {name.split(".")[1] for name in imported} - {package, *ALLOWED[package].split()}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_package_imports_only_those_below_it(path: Path) -> None:
    imported = imports_of(path.read_text(encoding="utf-8"))
    assert violations(path.relative_to(SOURCE).parts[0], imported) == set()
    for here, there in (("recipe", "study"), ("study", "recipe")):
        if module_of(path).startswith(f"tutelage.report.{here}"):
            assert not [name for name in imported if name.startswith(f"tutelage.report.{there}")]


def test_the_table_is_an_order() -> None:
    below: set[str] = set()
    for package, allowed in ALLOWED.items():
        assert set(allowed.split()) <= below, package
        below.add(package)
    assert {path.name for path in SOURCE.iterdir() if path.is_dir() and path.name != "__pycache__"} == below


@pytest.mark.slow
def test_no_module_imports_itself_by_way_of_others() -> None:
    modules = {module_of(path): imports_of(path.read_text(encoding="utf-8")) for path in FILES}
    packages = {module_of(path) for path in FILES if path.name == "__init__.py"}
    TopologicalSorter({name: (uses & modules.keys()) - packages for name, uses in modules.items()}).prepare()


def test_the_check_sees_every_way_to_import() -> None:
    for source in ("import tutelage.cli", "from tutelage.cli import x", "if 1:\n from tutelage import cli"):
        assert violations("common", imports_of(source)) == {"cli"}, source
    assert violations("training", {"tutelage.common.types", "tutelage.training.job", "tutelage.runs.run"}) == {"runs"}


def test_recipes_are_read_without_torch() -> None:
    code = "import sys, tutelage.recipe; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_files_and_folders_stay_small() -> None:
    files = [*FILES, *Path(__file__).parent.rglob("*.py"), *(SOURCE.parents[1] / "bench").rglob("*.py")]
    for path in files:
        assert len(list(path.parent.glob("*.py"))) <= 15, path.parent
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, path
