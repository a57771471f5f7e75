from __future__ import annotations

from pathlib import Path

import pytest
from tiny_benchmarks import write_data


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The made-up benchmarks. A test that changes them writes its own."""
    return write_data(tmp_path_factory.mktemp("data"))
