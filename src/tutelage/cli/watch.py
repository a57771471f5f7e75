"""`tutelage watch`, and the page that `tutelage run --web` shows meanwhile."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from tutelage.cli.options import Debug, no_url


def watch(
    runs: Annotated[Path, typer.Argument(callback=no_url, help="Folder of all runs, of a recipe or a study.")] = Path(
        "runs"
    ),
    host: Annotated[
        str, typer.Option(help="Address to listen on; others than this machine's own show your data to the network.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, show_default="8321, or a free one", help="Port; 0: any free one.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Show runs on a local page while they train: curves, samples of the student, time left, links to reports.

    It reads the folder and writes nothing, so it may be started and stopped at any time, by Ctrl-C.

    tutelage watch runs

    tutelage watch runs/demo --port 9000
    """
    from tutelage.common.errors import TutelageError

    if not runs.is_dir():
        raise TutelageError(f"{runs} is no folder: give the folder of runs, as --runs of `tutelage run` does")
    with page_of(runs, host, port):
        threading.Event().wait()


@contextmanager
def page_of(runs: Path, host: str = "127.0.0.1", port: int | None = None) -> Iterator[None]:
    """Serve the page of the folder `runs` during the block, and print where it is."""
    from tutelage.watch.server import Server, is_local

    server = Server(runs, host, port)
    try:
        if not is_local(host):
            print(
                f"warning: whoever reaches {host}:{server.port} sees prompts, answers and reports: "
                "there is no password; an SSH tunnel to 127.0.0.1 is safer",
                file=sys.stderr,
            )
        print(f"Watch: {server.url}", flush=True)
        yield
    finally:
        server.close()
