"""Imports only point upward in one list, so that any module can be read knowing only those above it."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "tutelage"

# Each module (or package) may import those before it. `__init__` is free of imports, `__main__` only starts the cli.
ORDER = [
    "types",
    "html",
    "config_base",
    "config_stages",
    "config",
    "cache",
    "divergence",
    "objective",
    "kernels",
    "rows",
    "dataset",
    "template",
    "align",
    "batch",
    "attention",
    "norm",
    "model_files",
    "shard",
    "vocabulary",
    "model",
    "teacher",
    "draw",
    "prefix",
    "slot_cache",
    "engine",
    "padded",
    "sampler",
    "vllm_scheduler",
    "vllm_sampler",
    "backends",
    "prune",
    "rollout",
    "checkpoint",
    "runlog",
    "memory",
    "interrupt",
    "schedule",
    "totals",
    "tracking",
    "trainer",
    "methods",
    "statistics",
    "evaluate",
    "study_config",
    "recipe_file",
    "recipe",
    "answers",
    "train_stage",
    "synthetic_text",
    "synthetic_filters",
    "synthetic_rows",
    "synthetic_page",
    "synthetic",
    "synthetic_stage",
    "study_stage",
    "stage",
    "ranks",
    "store",
    "attempt",
    "workers",
    "search",
    "study_facts",
    "study_cost",
    "runner",
    "study",
    "study_plan",
    "study_ray",
    "study_run",
    "diagnose",
    "report_data",
    "report_pairs",
    "report_words",
    "report_tables",
    "canvas",
    "report_figures",
    "report_synthetic",
    "report",
    "paper_values",
    "study_data",
    "study_read",
    "study_words",
    "study_claims",
    "study_tables",
    "study_table_files",
    "study_figures",
    "study_losses",
    "study_draw",
    "study_report",
    "demo_notes",
    "demo_heal",
    "demo",
    "cli_options",
    "cli_study",
    "cli_evaluate",
    "cli",
    "__main__",
]
FILES = sorted(path for path in SOURCE.rglob("*.py") if path.stat().st_size)


def layer_of(path: Path) -> str:
    """`kernels/chunked.py` belongs to `kernels`, `model.py` to `model`."""
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports_of(source: str, package: str) -> set[str]:
    """Full names of what a module imports, at its top or inside functions; `package` resolves relative imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parent, *([node.module] if node.module else [])])
            # `from tutelage import model` names the module in the alias, not in the base
            found.update(f"{base}.{alias.name}" if base == "tutelage" else base for alias in node.names)
    return found


def layers_imported(source: str, package: str) -> set[str]:
    names = {name.split(".")[1] for name in imports_of(source, package) if name.startswith("tutelage.")}
    return names - {"__version__"}


def violations(layer: str, imported: set[str]) -> list[str]:
    unknown = sorted(name for name in {layer, *imported} if name not in ORDER)
    if unknown:
        return [f"{name} is not in ORDER of tests/test_layers.py: add it where it belongs" for name in unknown]
    return [
        f"{layer} imports {name}, which stands below it in ORDER of tests/test_layers.py"
        for name in sorted(imported)
        if ORDER.index(name) > ORDER.index(layer)
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_upward(path: Path) -> None:
    package = ".".join(("tutelage", *path.parent.relative_to(SOURCE).parts))
    imported = layers_imported(path.read_text(encoding="utf-8"), package)
    if path == SOURCE / "__init__.py":
        assert imported == set()
    else:
        assert violations(layer_of(path), imported) == []


def test_types_imports_only_torch() -> None:
    outside = {name.split(".")[0] for name in imports_of((SOURCE / "types.py").read_text(), "tutelage")}
    assert outside - set(sys.stdlib_module_names) == {"torch"}


def test_the_check_itself_sees_every_way_to_import() -> None:
    for source in (
        "import tutelage.cli",
        "from tutelage.cli import main",
        "from tutelage import cli",
        "from .cli import main",
        "from . import cli",
        "def f():\n    from tutelage.cli import main",
    ):
        assert layers_imported(source, "tutelage") == {"cli"}, source
        assert violations("types", {"cli"}) == [
            "types imports cli, which stands below it in ORDER of tests/test_layers.py"
        ]
    assert layers_imported("from ..model import load_model\nfrom .chunked import loss", "tutelage.kernels") == {
        "model",
        "kernels",
    }
    assert violations("model", {"model", "types"}) == []
    assert violations("model", {"surprise"}) == [
        "surprise is not in ORDER of tests/test_layers.py: add it where it belongs"
    ]
