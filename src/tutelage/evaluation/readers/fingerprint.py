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
from typing import NamedTuple

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
    files = _followed(module, root, package)
    for name, file in sorted(files.items()):
        digest.update(f"{name}\0{file.code}\0".encode())
    modules = (one for file in files.values() for named, _ in file.imports for one in named)
    for library in sorted({_SCORING[top] for one in modules if (top := one.partition(".")[0]) in _SCORING}):
        digest.update(f"{library}=={_version(library)}\0".encode())
    return digest.hexdigest()[:8]


def code_of(source: str) -> str:
    """Python source without comments, docstrings, blank lines and spaces at line ends; the same for every Python."""
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for node in _statements(ast.parse(source)):
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


class _Code(NamedTuple):
    """What a fingerprint needs of a file: `code_of` it, and the modules that its imports name, each with the names that
    are taken from them (`import` takes none)."""

    code: str
    imports: list[tuple[list[str], list[str]]]


@cache
def _read(source: str) -> _Code:
    """Of a file's text; fingerprints share most files."""
    imports: list[tuple[list[str], list[str]]] = []
    for node in _statements(ast.parse(source), running=True):
        if isinstance(node, ast.Import):
            imports.append(([alias.name for alias in node.names], []))
        elif isinstance(node, ast.ImportFrom) and node.module:
            imports.append(([node.module], [alias.name for alias in node.names]))
    return _Code(code_of(source), imports)


def _followed(module: str, root: Path, package: str) -> dict[str, _Code]:
    """The module and all modules of the package that it imports, directly or not."""
    found, open_names = dict[str, _Code](), [module]
    while open_names:
        name = open_names.pop()
        if name not in found:
            found[name] = _read(_file(name, root).read_text(encoding="utf-8"))
            open_names += _imported(found[name], root, package)
    return found


def _imported(file: _Code, root: Path, package: str) -> Iterator[str]:
    """The modules of the package that a file imports, except for its annotations alone."""
    for names, taken in file.imports:
        if taken:
            inner = [f"{names[0]}.{one}" for one in taken]
            modules = [name for name in inner if name.startswith(f"{package}.") and _file(name, root).is_file()]
            names = modules if len(modules) == len(inner) else [names[0], *modules]
        yield from (name for name in names if name.startswith(f"{package}.") or name in _BESIDE)


def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "none"


def _statements(tree: ast.AST, running: bool = False) -> Iterator[ast.AST]:
    """The nodes of a tree that are no expressions; with `running`, without those under `if TYPE_CHECKING:`."""
    found = [tree]
    while found:
        node = found.pop()
        unread = isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        if not (running and unread):
            yield node
            found += (child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.expr))


def _file(name: str, root: Path) -> Path:
    """The file of a module or package."""
    path = root.joinpath(*name.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
