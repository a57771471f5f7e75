"""A metric that scores nothing is said on the screen, in the result and on the page; no search chooses by it."""

from __future__ import annotations

import json

import pytest
from recipes_fixture import Workshop

from tutelage.cli.main import main

THAI = [{"id": str(n), "prompt": "สวัสดี", "completion": "แมวนั่งบนเสื่อ"} for n in range(3)]
SAYS = "`rouge_l` leaves every example unscored: no reference has a Latin letter or digit"


@pytest.mark.usefixtures("undrawn")
def test_a_metric_that_scores_nothing_is_loud(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    workshop.rows("test", THAI)
    stages = [{"name": "scores", "kind": "evaluate", "models": ["lead_1"], "tasks": ["test"]}]
    file = str(workshop.write(stages=stages))
    main(["run", file, "--runs", str(workshop.runs)])
    assert f"note: tasks.test: {SAYS}" in capsys.readouterr().out
    (result,) = [json.loads(one.read_text()) for one in workshop.runs.glob("*/result.json")]
    assert (result["n"], result["unscored"], result["metrics"]["rouge_l"]["value"]) == (3, 3, None)
    assert [SAYS in notice and "use `chrf`" in notice for notice in result["notices"]] == [True]
    page = workshop.runs / "tiny-report" / "report.html"
    assert SAYS.replace("`rouge_l`", "<code>rouge_l</code>") in page.read_text(encoding="utf-8")
    main(["report", file, "--runs", str(workshop.runs), "--out", str(workshop.folder / "again")])
    assert f"note: tasks.test: {SAYS}" in capsys.readouterr().out


@pytest.mark.slow
def test_a_search_does_not_choose_by_it(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    workshop.rows("test", THAI)
    stages = [{"name": "sft", "kind": "sft", "data": "train", "search": True}]
    search = {"task": "test", "grid": {"learning_rate": [0.001, 0.002]}}
    with pytest.raises(SystemExit):
        main(["run", str(workshop.write(stages=stages, search=search)), "--runs", str(workshop.runs)])
    line = capsys.readouterr().err.splitlines()[-1]  # after notes on rows
    assert "every trial of its search is unscored on `test`" in line
    assert SAYS in line
