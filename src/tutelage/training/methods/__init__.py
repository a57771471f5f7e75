"""Further training methods. A method is a function that changes a training job and returns it (docs/method.md).

In the job that it gets, the teacher is loaded and responses come from the student with probability λ.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from tutelage.common.files import hash_file
from tutelage.training.job import Job
from tutelage.training.methods import policy_gradient

Method = Callable[[Job, dict[str, Any]], Job]

METHODS: Mapping[str, Method] = {"policy_gradient": policy_gradient.build}


def method_fingerprint(name: str) -> str:
    """A text that changes with the method's file, with the modules of its folder that it imports, and with arguments
    bound by `partial`, for the fingerprint of runs."""
    function, arguments = METHODS[name], ""
    while isinstance(function, partial):
        function, arguments = function.func, f"{arguments} {function.args} {function.keywords}"
    file = Path(inspect.getfile(function))
    above = function.__module__.count(".") + (file.name == "__init__.py")
    found, left = list[Path](), [file]
    while left:
        one = left.pop()
        if one not in found:
            found.append(one)
            left += (other for other in _imported(one, file.parents[above]) if file.parent in other.parents)
    return " ".join(map(hash_file, [file, *sorted(found[1:])])) + arguments


def _imported(file: Path, root: Path) -> Iterator[Path]:
    """The files beside `file` or below `root`, where absolute imports begin, that its imports name."""

    def module(name: str) -> Path | None:
        places = [folder.joinpath(*name.split(".")) for folder in folders]
        files = [path for place in places for path in (place.parent / f"{place.name}.py", place / "__init__.py")]
        return next((path for path in files if path.is_file()), None)

    for node in ast.walk(ast.parse(file.read_bytes())):
        folders = [root, file.parent]
        if isinstance(node, ast.Import):
            yield from (path for alias in node.names if (path := module(alias.name)))
        elif isinstance(node, ast.ImportFrom):
            folders = [file.parents[node.level - 1]] if node.level else folders
            start = node.module or ""
            inner = [module(f"{start}.{alias.name}".lstrip(".")) for alias in node.names]
            yield from (path for path in (*inner, None if all(inner) else module(start)) if path)
