"""How threads wait for each other on a CPU. Imports no torch: OpenMP reads its settings when torch loads it."""

from __future__ import annotations

import os

# Turns that a thread of GNU OpenMP waits for work before it sleeps: about 10 µs, enough for the gap between two
# operations. Its default of 300,000, 3 ms, is a whole turn on the processor when another program wants the same core:
# the thread that all wait for gets none meanwhile (LOG.md has what it costs).
_SPINS = "1000"


def wait_briefly() -> None:
    """Let OpenMP's threads, here and in worker processes, give their core away soon when they wait, unless the user has
    set how they wait. Works only before torch is imported."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)
