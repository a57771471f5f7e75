"""One rank as a program, `python -m tutelage.runs.one_rank FOLDER`: started by `ranks.py`, which reads its report."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import sys
import time
import traceback
from pathlib import Path

from tutelage.common.errors import TutelageError
from tutelage.common.interrupt import Interrupted, become_worker
from tutelage.runs.ranks import die_with_parent


def main(folder: Path) -> None:
    """Do the run that `folder` holds as one rank, write `report-<rank>.json`, and exit: 1 after an error, else 0."""
    run, worker = pickle.loads((folder / "run.pickle").read_bytes())  # written by `do_in_processes`
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    die_with_parent(worker, worker if world > 1 else None)
    become_worker()
    (folder / f"pid-{rank}").write_text(str(os.getpid()))
    from tutelage.common.files import storage_problem, write_atomically
    from tutelage.runs.do_run import do_run

    kind, line = "done", ""
    try:
        if run.device == "cuda":
            import torch

            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))  # the device that "cuda" means from here on
        with open(os.devnull, "w") as null, contextlib.redirect_stdout(sys.stdout if rank == 0 else null):
            do_run(run, write=rank == 0)
    except Interrupted as error:
        kind, line = "Interrupted", str(error)
    except TutelageError as error:
        kind, line = "TutelageError", str(error)
    except Exception as error:  # a bug: the traceback goes into the log, its first line to the worker
        problem = storage_problem(error)
        kind = type(error).__name__ if problem is None else "TutelageError"
        line = problem or next(iter(str(error).strip().splitlines()), "")
        traceback.print_exc()
    report = {"rank": rank, "kind": kind, "line": line, "time": time.time()}
    write_atomically(folder / f"report-{rank}.json", json.dumps(report))
    sys.stdout.flush()
    sys.stderr.flush()
    # A normal exit would wait for the process group, in which another rank may have died.
    os._exit(0 if kind in ("done", "Interrupted") else 1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
