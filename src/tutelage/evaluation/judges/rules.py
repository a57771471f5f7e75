"""The wording of InFoBench's own rules for judges: fetched from its repository, or read from a file; it is not here."""

from __future__ import annotations

import ast
import urllib.request
from pathlib import Path

from tutelage.common.errors import TutelageError
from tutelage.common.files import cache_folder, write_atomically

COMMIT = "497b42a90a7cc1ca55c3f10774d47efd6a261072"
SCRIPT = f"https://raw.githubusercontent.com/qinyiwei/InfoBench/{COMMIT}/evaluation.py"
NAME = "SYS_MSG"  # of the rules in that script
SECONDS = 30
_MOST = 1_000_000  # bytes of the script


def official_wording() -> str:
    """The benchmark's own rules, from the cache folder, else its repository. Raises TutelageError when neither does."""
    kept = cache_folder() / "judge" / f"official-rules-{COMMIT[:12]}.txt"
    if kept.is_file():
        return kept.read_text(encoding="utf-8")
    try:
        with urllib.request.urlopen(SCRIPT, timeout=SECONDS) as answer:
            source = answer.read(_MOST).decode("utf-8")
    except (OSError, ValueError) as error:
        raise TutelageError(
            f"`rules: official`: the rules cannot be fetched ({error}): download {SCRIPT} where there is a network, "
            "and give that file as `rules`, with `decision: official`"
        ) from None
    wording = _of_script(source, SCRIPT)
    write_atomically(kept, wording)
    return wording


def wording_of_file(file: Path) -> str:
    """The rules in a file: its whole text, or of a Python file the text called SYS_MSG, as in the benchmark's script.

    Raises TutelageError for a file that cannot be read or holds none.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TutelageError(
            f"the judge's `rules`: {file} cannot be read ({error}): give `tutelage`, `official` or a text file"
        ) from None
    wording = _of_script(text, str(file)) if file.suffix == ".py" else text.strip()
    if not wording:
        raise TutelageError(f"the judge's `rules`: {file} is empty: write the rules into it")
    return wording


def _of_script(source: str, where: str) -> str:
    try:
        for node in ast.parse(source).body:
            if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == NAME for t in node.targets):
                return str(ast.literal_eval(node.value))
    except (SyntaxError, ValueError):
        pass
    raise TutelageError(f"the judge's `rules`: {where} has no text called {NAME}: give a file with the rules alone")
