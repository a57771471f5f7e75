"""Workers of the scheduler that are forked: those that are started anew, as users' are, import torch first."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from tutelage.cli.main import main
from tutelage.common.progress import notes_file
from tutelage.runs import scheduler
from tutelage.runs.scheduler import Resources
from tutelage.runs.worker import begin_worker


def forked(resources: Resources) -> ProcessPoolExecutor:
    """In place of `tutelage.runs.scheduler._processes`; CUDA does not survive a fork."""
    context = multiprocessing.get_context("spawn" if torch.cuda.is_available() else "fork")
    return ProcessPoolExecutor(
        resources.jobs, context, initializer=begin_worker, initargs=(os.getpid(), None, notes_file())
    )


if __name__ == "__main__":  # FILE ARGUMENT…: `tutelage` with such workers; its process id is written to FILE
    faulthandler.register(signal.SIGUSR1)  # each process that gets it writes where it stands
    scheduler._processes = forked
    Path(sys.argv[1]).write_text(str(os.getpid()))
    main(sys.argv[2:])
