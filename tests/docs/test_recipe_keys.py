"""The tables of keys in docs/ are those of the schema: `make docs` writes them."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = runpy.run_path(str(ROOT / "scripts" / "recipe_keys.py"))
PAGES = [page for page in sorted((ROOT / "docs").glob("*.md")) if "<!-- keys:" in page.read_text(encoding="utf-8")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_has_the_keys_of_the_schema(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text == SCRIPT["rendered"](text), "run `make docs`"


def test_every_section_has_a_table() -> None:
    named = {match[1] for page in PAGES for match in SCRIPT["BLOCK"].findall(page.read_text(encoding="utf-8"))}
    assert named == SCRIPT["sections"]().keys() - {"AnswerSamplingConfig"}  # a sampling section with other defaults


def test_a_table_says_type_default_and_meaning() -> None:
    stage = {
        "properties": {
            "name": {"type": "string", "description": "what <it> is | called"},
            "limit": {"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "null"}], "default": 1.0},
            "rate": {"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "null"}], "default": None},
            "kind": {"const": "x"},
            "share": {"type": "number", "minimum": 0.0, "maximum": 1.0, "default": 5e-6},
            "files": {"type": "array", "items": {"type": "string"}, "default": []},
            "inputs": {"$ref": "#/$defs/SamplingConfig", "default": {"top_p": 1.0, "temperature": 0.8}},
        },
        "required": ["name"],
    }
    sampling = {"properties": {"top_p": {"default": 1.0}, "temperature": {"default": 1.0}}}
    table = SCRIPT["table"]("Stage", None, {"Stage": stage, "SamplingConfig": sampling})
    assert table.splitlines()[2:] == [
        r"| `name` | text | required | what \<it> is \| called |",
        "| `limit` | number > 0 or `null` | `1.0` |  |",
        "| `rate` | number > 0 | none |  |",
        "| `share` | number from 0 to 1 | `5e-6` |  |",
        "| `files` | list of texts | `[]` |  |",
        "| `inputs` | sampling section | `temperature: 0.8` |  |",
    ]
    base = {
        "properties": {key: stage["properties"][key] for key in ("name", "limit", "rate", "kind", "share", "files")}
    }
    beyond = SCRIPT["table"](
        "Stage", "Base", {"Stage": stage, "Base": base | {"required": ["name"]}, "SamplingConfig": sampling}
    )
    assert beyond.splitlines()[2:] == ["| `inputs` | sampling section | `temperature: 0.8` |  |"]
