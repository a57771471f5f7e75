"""What is told of a data file before it is read, and a hub that does not answer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tutelage.common.errors import TutelageError
from tutelage.data.sources import most_rows, open_rows, short_name
from tutelage.evaluation.benchmarks.data import Hub, hub_rows
from tutelage.recipe.sections import DataConfig


def test_the_most_rows_of_a_file_are_told_without_parsing_it(tmp_path: Path) -> None:
    import pandas

    table = pandas.DataFrame([{"prompt": "Two\nlines?", "completion": "Yes."}] * 6)
    table.to_parquet(tmp_path / "rows.parquet")
    table.to_csv(tmp_path / "rows.csv", index=False)
    table.to_json(tmp_path / "rows.jsonl", orient="records", lines=True)
    table.to_json(tmp_path / "list.jsonl", orient="records")
    table.to_json(tmp_path / "rows.json", orient="records")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    found = {file.name: most_rows(file) for file in tmp_path.iterdir()}
    unknown = {"list.jsonl": None, "rows.json": None, "broken.parquet": None}
    assert found == {"rows.parquet": 6, "rows.csv": 1 + 2 * 6 + 1, "rows.jsonl": 6 + 1} | unknown


class Unplugged:
    """A client without a network."""

    def head(self, *_: Any, **__: Any) -> None:
        raise ConnectionError("no network")


@pytest.mark.parametrize(
    ("load", "advice"),
    [
        (lambda: open_rows("data.a", DataConfig(path="owner/set"), Path()), "or name local files"),
        (lambda: hub_rows(Hub("owner/set", "test")), "or put the data in a folder for --data-dir or $TUTELAGE_DATA"),
    ],
)
def test_a_hub_that_cannot_be_reached_is_asked_once(
    load: Callable[[], Any], advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets
    from huggingface_hub import constants

    seen: list[bool] = []

    def from_cache(*_: Any, **__: Any) -> None:
        seen.extend((constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE))
        raise ConnectionError("Couldn't reach it")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.get_session", Unplugged)
    monkeypatch.setattr("datasets.load_dataset", from_cache)
    with pytest.raises(TutelageError) as caught:
        load()
    assert seen == [True, True]  # so the client takes what its cache has, and asks no more
    assert "from the hub, which cannot be reached: check the network" in str(caught.value)
    assert advice in str(caught.value)
    assert (constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE) == (False, False)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("rows/train.csv", "train.csv"),
        ("allenai/tulu-3-sft-mixture", "allenai/tulu-3-sft-mixture"),
        (["a/one.jsonl", "b/two.jsonl"], "one.jsonl, two.jsonl"),
    ],
)
def test_a_sections_rows_are_named_in_short(path: str | list[str], name: str):
    assert short_name(DataConfig(path=path)) == name
