"""The fingerprint of a reading: it changes with the code that turns replies into scores, and not with its comments."""

from __future__ import annotations

import ast
import hashlib
import io
import tokenize
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path

import tutelage

_PACKAGE = "tutelage.evaluation"
_BESIDE = ("tutelage.data.thoughts",)  # modules outside the package that decide what is read: the marks of thoughts
# Libraries that compute scores: module → its name on the index. Another version is another reading.
_SCORING = {"lm_eval": "lm-eval", "rouge_score": "rouge-score", "sacrebleu": "sacrebleu", "langdetect": "langdetect"}
_SCORING |= {"nltk": "nltk"}
_ROOT = Path(tutelage.__file__).parents[1]


@cache
def reading_fingerprint(module: str, root: Path = _ROOT, package: str = _PACKAGE) -> str:
    """Eight hex digits of the code of a module and of all that it imports, at its top or in functions, in `package`, or
    of `_BESIDE`, and of the versions of the libraries of `_SCORING` among these imports.

    `module`: full name of the module that scores, such as a benchmark's. `root`: the folder that holds the package.
    Comments, docstrings and blank lines do not count.
    """
    digest = hashlib.sha256()
    names = sorted(_followed(module, root, package))
    for name in names:
        digest.update(f"{name}\0{code_of(_file(name, root).read_text(encoding='utf-8'))}\0".encode())
    for library in sorted({one for name in names for one in _libraries(name, root)}):
        digest.update(f"{library}=={_version(library)}\0".encode())
    return digest.hexdigest()[:8]


def code_of(source: str) -> str:
    """Python source without comments, docstrings, blank lines and spaces at line ends; the same for every Python."""
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                lines[first.lineno - 1 : first.end_lineno] = [""] * (
                    (first.end_lineno or first.lineno) - first.lineno + 1
                )
    return "\n".join(line.rstrip() for line in lines if line.strip())


def _followed(module: str, root: Path, package: str) -> set[str]:
    """The module and all modules of the package that it imports, directly or not."""
    found, open_names = set(), [module]
    while open_names:
        name = open_names.pop()
        if name not in found:
            found.add(name)
            open_names += _imported(ast.parse(_file(name, root).read_text(encoding="utf-8")), root, package)
    return found


def _imported(tree: ast.AST, root: Path, package: str) -> Iterator[str]:
    """The modules of the package that a file imports, except for its annotations alone."""
    for node in _running(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            modules = [name for name in inner if name.startswith(f"{package}.") and _file(name, root).is_file()]
            names = modules if len(modules) == len(inner) else [node.module, *modules]
        yield from (name for name in names if name.startswith(f"{package}.") or name in _BESIDE)


def _libraries(name: str, root: Path) -> Iterator[str]:
    """The libraries of `_SCORING` that a module imports."""
    for node in _running(ast.parse(_file(name, root).read_text(encoding="utf-8"))):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        modules += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        yield from (_SCORING[top] for one in modules if (top := one.partition(".")[0]) in _SCORING)


def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "none"


def _running(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a tree without those under `if TYPE_CHECKING:`."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING"):
            yield from _running(child)


def _file(name: str, root: Path) -> Path:
    """The file of a module or package."""
    path = root.joinpath(*name.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
