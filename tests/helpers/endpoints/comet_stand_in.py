"""A stand-in for COMET's environment."""

from __future__ import annotations

import sys
from pathlib import Path

# Scores a segment by its number of words, and keeps what it was given.
STAND_IN = """#!{python}
import json, os, sys
arguments = [a for a in sys.argv[1:] if a not in ("--quiet", "--only_system")]
given = dict(zip(arguments[::2], arguments[1::2]))
texts = {{kind: open(given[kind], encoding="utf-8").read().split("\\n")[:-1] for kind in ("-s", "-t", "-r")}}
json.dump({{"given": given, "texts": texts, "path": os.environ.get("PYTHONPATH")}}, open("{seen}", "w"))
{extra}
rows = [{{"COMET": len(line.split()) / 10}} for line in texts["-t"]]
json.dump({{given["-t"]: rows}}, open(given["--to_json"], "w"))
"""


def stand_in(folder: Path, extra: str = "") -> Path:
    """A COMET environment that holds the stand-in; returns the file in which it writes what it was given."""
    script, seen = folder / "comet" / "bin" / "comet-score", folder / "seen.json"
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(STAND_IN.format(python=sys.executable, seen=seen, extra=extra))
    script.chmod(0o755)
    (folder / "comet" / "ready.json").write_text("{}")
    return seen
