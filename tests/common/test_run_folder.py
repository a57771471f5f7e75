"""What is read of a run's folder that may be absent or damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from tutelage.common.run_folder import CONFIG, read_if_whole


@pytest.mark.parametrize(
    ("text", "found"),
    [(None, {}), ("{broken", {}), ("[1]", {}), ('{"stage": "sft"}', {"stage": "sft"})],
)
def test_what_is_no_whole_mapping_is_nothing(tmp_path: Path, text: str | None, found: dict[str, str]) -> None:
    if text is not None:
        (tmp_path / CONFIG).write_text(text)
    assert read_if_whole(tmp_path, CONFIG) == found
