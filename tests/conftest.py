import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from recipes_fixture import tiny_models, workshop  # noqa: F401


@pytest.fixture(autouse=True)
def _one_thread():
    """Fixed threads: sums come out bit for bit the same, and two cores can run two tests."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def data_folder() -> Path:
    """The folder of real data sets, or a skip that says how to get it."""
    folder = os.environ.get("TUTELAGE_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("TUTELAGE_DATA is not set to a folder of data sets")
    return Path(folder)
