"""One self-contained HTML page per evaluation: all examples, to filter, search and read in a browser.

The page holds the records as JSON, and its script makes the row of a record only when it comes into view, so that a
page of ten thousand examples opens at once. The page's policy allows only that script, by its hash; the script inserts
texts as text, so that nothing a model or the data wrote is markup.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from tutelage.common.files import write_atomically
from tutelage.common.html import page_template
from tutelage.evaluation.readers.thoughts import read_reply
from tutelage.evaluation.records import ExampleRecord, example_name, read_records, read_result

PAGE_FILE = "examples.html"
METRIC_LABELS = {
    "rouge_l": "ROUGE-L",
    "rouge_l_best": "ROUGE-L, best reference",
    "exact_match": "exact match",
    "final_answer": "final answer",
    "chrf": "chrF2",
    "comet": "COMET",
    "prompt_loose": "prompt-level loose accuracy",
    "drfr": "DRFR",
    "loss": "loss, nats per token",
    "kl": "KL to the teacher, nats",
}


def metric_label(metric: str) -> str:
    """The name of a metric; an unknown one without underscores."""
    return METRIC_LABELS.get(metric, metric.replace("_", " "))


def write_page(folder: Path, out: Path | None = None, include_text: bool = True) -> Path:
    """Write the page of an evaluation's folder, by default to `examples.html` in it; return its path.

    `include_text=False` leaves out all texts of the data and of models, for data that may not be published: ids,
    groups, scores and lengths stay. Raises TutelageError when the folder's records or result cannot be read.
    """
    html = render_page(read_result(folder), read_records(folder), include_text)
    return write_atomically(out or folder / PAGE_FILE, html)


def render_page(result: Mapping[str, Any], records: Sequence[ExampleRecord], include_text: bool = True) -> str:
    """The page as HTML. `result`: the content of `result.json`."""
    from markupsafe import Markup, escape

    script = (files("tutelage.evaluation") / "page.js").read_text(encoding="utf-8")
    filters = {
        "score": lambda value: "unknown" if value is None else f"{value:.2f}",
        "metric": metric_label,
        "breakable": lambda name: escape(name).replace("_", Markup("_<wbr>")),
    }
    return page_template("tutelage.evaluation", "page.html.j2", filters).render(
        result={"model": None, "groups": {}, **result},
        include_text=include_text,
        groups={record.group for record in records},
        cut=sum(not record.finished for record in records),
        notices=[*result.get("notices", ())] if include_text else [],
        data=Markup(embedded_json(_page_data(result, records, include_text))),
        script=Markup(script),
        script_hash="sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def embedded_json(value: Any) -> str:
    """JSON that cannot end the script element around it: `<`, `>` and `&` are written as escapes."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _page_data(result: Mapping[str, Any], records: Sequence[ExampleRecord], include_text: bool) -> dict[str, Any]:
    """The data of the page's script. Metrics are the examples' own scores, the headline first."""
    metrics = list(dict.fromkeys(metric for record in records for metric in record.scores))
    metrics.sort(key=lambda metric: metric != result.get("headline"))
    metrics = metrics or [str(result.get("headline", "score"))]
    return {
        "text": include_text,
        "metrics": metrics,
        "labels": [metric_label(metric) for metric in metrics],
        "rows": [_row(record, metrics, include_text) for record in records],
    }


def _row(record: ExampleRecord, metrics: Sequence[str], include_text: bool) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": record.id,
        "name": example_name(record.id),
        "group": record.group,
        "scores": [record.scores.get(metric) for metric in metrics],
        "finished": record.finished,
        "tokens": record.tokens,
    }
    if include_text:
        row |= {
            "prompt": record.prompt,
            "response": record.response,
            "answer": record.answer,
            "targets": list(record.references),
            "reason": record.reason,
            **_thought(record.response),
        }
        if record.parts:
            row["parts"] = [_part(part) for part in record.parts]
    return row


def _thought(response: str) -> dict[str, Any]:
    """The length of a reply's thought and the answer after it, which is what was scored; nothing for other replies."""
    found = read_reply(response)
    return {"thought": found.start, "said": None if found.unended else found.answer} if found.thinks else {}


def _part(part: Mapping[str, Any]) -> dict[str, Any]:
    """A part of an example, its further fields (a judge's answer, an instruction's arguments) as one note."""
    notes = [f"{key}: {_plain(value)}" for key, value in part.items() if key not in ("name", "scores") and value]
    return {"name": str(part.get("name", "")), "scores": part.get("scores", {}), "note": "; ".join(notes)}


def _plain(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
