"""How threads wait: told before torch is loaded, to this process and its workers, unless the user has said how."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import tutelage
from tutelage.common.threads import wait_briefly

NAMES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


@pytest.mark.parametrize("given", [{}, {"OMP_WAIT_POLICY": "active"}, {"GOMP_SPINCOUNT": "7"}])
def test_what_the_user_set_stays(given: dict[str, str], monkeypatch: pytest.MonkeyPatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    wait_briefly()
    found = {name: os.environ[name] for name in NAMES if name in os.environ}
    assert found == (given or {"GOMP_SPINCOUNT": "1000"})


def test_the_program_says_so_before_it_imports_torch():
    code = (
        "import os, sys\nfrom tutelage.cli import main\ntry:\n    main(['--version'])\nexcept SystemExit:\n    pass\n"
        "print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
    )
    environment = {name: value for name, value in os.environ.items() if name not in NAMES}
    environment["PYTHONPATH"] = str(Path(tutelage.__file__).parent.parent)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "1000 False"
