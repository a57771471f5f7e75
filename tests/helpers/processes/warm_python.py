"""A Python that begins with torch, transformers and the project imported: those imports take seconds per process.

`started()` starts a server that has imported them once, and writes an executable which behaves like `python` for
`-m MODULE`, `-c CODE` and `FILE`: the server forks, and the fork runs the program with the caller's arguments,
environment, folder, and standard streams. It ends when its caller is killed. In the program `sys.executable` is this
executable too, so that the processes which it starts are as quick. The program leads a session of its own, inherits
file descriptors as from a parent, and its parent, whatever `os.getppid` says, is the server.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

CLIENT = """#!{python} -IS
import contextlib, json, os, signal, socket, sys
given = {{0, 1, 2}}
for number in map(int, os.listdir("/proc/self/fd")):
    with contextlib.suppress(OSError):  # that of the listing itself
        os.fstat(number)
        given.add(number)
given = sorted(given)
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    asked = json.dumps([sys.argv, os.getcwd(), dict(os.environ), os.getppid(), given]).encode()
    socket.send_fds(server, [len(asked).to_bytes(8, "big")], given)
    server.sendall(asked)
    answer = server.makefile().read()
code = int(answer or -signal.SIGKILL)
if code < 0:
    signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
    os.kill(os.getpid(), -code)
sys.exit(code)
"""


@contextlib.contextmanager
def started() -> Iterator[str]:
    """The path of the executable; elsewhere than on Linux that of this Python."""
    if sys.platform != "linux":
        yield sys.executable
        return
    folder = Path(tempfile.mkdtemp(prefix="warm-"))  # of a short name: a socket's address has at most 107 bytes
    client, address = folder / "python", str(folder / "socket")
    client.write_text(CLIENT.format(python=sys.executable, address=address))
    client.chmod(0o700)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(64)
        number = listener.fileno()
        command = [sys.executable, __file__, str(number), str(client)]
        server = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[number])
    with server:  # alone has the socket now: where it fails, so do its clients
        try:
            yield str(client)
        finally:
            assert server.stdin is not None
            server.stdin.close()  # as happens when this process is killed


def serve(listener: socket.socket, client: str) -> None:
    gc.disable()  # importing takes a fourth of its time less
    import torch
    from transformers import AutoModelForCausalLM, LlamaForCausalLM, PreTrainedTokenizerFast  # noqa: F401

    import tutelage.models.load
    import tutelage.runs.do_run
    import tutelage.runs.ranks
    import tutelage.sampling.torch_sampler
    import tutelage.training.trainer  # noqa: F401

    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()  # forks share these objects, and collect without looking at them
    gc.enable()
    supervisors: set[int] = set()
    while True:
        ready = select.select([listener, sys.stdin], [], [])[0]
        supervisors -= {process for process in supervisors if os.waitpid(process, os.WNOHANG)[0]}
        if sys.stdin in ready:  # closed
            shutil.rmtree(Path(client).parent, ignore_errors=True)
            os._exit(0)
        connection, _ = listener.accept()
        process = os.fork()
        if process == 0:
            listener.close()
            with connection:
                supervise(connection, client)
            os._exit(0)
        supervisors.add(process)
        connection.close()


def supervise(connection: socket.socket, client: str) -> None:
    """Run the program in a fork of this process, and answer with its exit code; kill it when its caller is gone."""
    import fcntl  # not on all systems

    head, received, _, _ = socket.recv_fds(connection, 8, 250)
    missing, data = int.from_bytes(head, "big"), b""
    while len(data) < missing:
        data += connection.recv(missing - len(data)) or sys.exit(1)
    arguments, folder, environment, parent, numbers = json.loads(data)
    process = os.fork()
    if process == 0:
        connection.close()
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        apart = [fcntl.fcntl(one, fcntl.F_DUPFD_CLOEXEC, max(numbers) + 1) for one in received]  # of the numbers
        for one in received:
            os.close(one)
        for number, one in zip(numbers, apart, strict=True):
            os.dup2(one, number)
            os.close(one)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        tempfile.tempdir = None  # $TMPDIR may be another
        parents = json.loads(environment.get("WARM_PARENTS", "{}")) | {str(os.getpid()): parent}
        os.environ["WARM_PARENTS"] = json.dumps(parents)  # of programs; in /proc it is the server
        ranks = sys.modules["tutelage.runs.ranks"]
        ranks._parent_of = partial(grandparent_of, parents, ranks._parent_of)  # type: ignore[attr-defined]
        sys.executable, os.getppid = client, partial(parent_of, os.getpid(), parent, os.getppid)
        os._exit(run(arguments[1:]))
    for one in received:
        os.close(one)
    ended = os.pidfd_open(process)
    if ended not in select.select([connection, ended], [], [])[0]:
        os.kill(process, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    with contextlib.suppress(BrokenPipeError):
        connection.sendall(str(code).encode())


def parent_of(program: int, parent: int, real: Callable[[], int]) -> int:
    """`os.getppid` in the program, and in processes that it forks."""
    return parent if os.getpid() == program else real()


def grandparent_of(parents: dict[str, int], real: Callable[[int], int], process: int) -> int:
    """`tutelage.runs.ranks._parent_of` in the program, whose parent may be such a program too."""
    return parents.get(str(process)) or real(process)


def run(arguments: list[str]) -> int:
    """What `python ARGUMENTS` does."""
    import atexit
    import runpy
    import threading
    import traceback

    while arguments[0] in ("-u", "-B"):
        arguments = arguments[1:]
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:0] = [path for path in paths if path not in sys.path]
    # The server's own objects would still take these for the files and terminals that they were.
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", 1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    if "torch" in sys.modules:
        # The first such call of a fork makes torch's thread pool anew; two threads that make it at once find none.
        sys.modules["torch"].set_num_threads(sys.modules["torch"].get_num_threads())
    code = 0
    try:
        if arguments[0] == "-m":
            sys.argv, sys.path[:0] = arguments[1:], [os.getcwd()]
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        elif arguments[0] == "-c":
            sys.argv, sys.path[:0] = ["-c", *arguments[2:]], [""]
            exec(compile(arguments[1], "<string>", "exec"), {"__name__": "__main__"})
        else:
            sys.argv, sys.path[:0] = arguments, [str(Path(arguments[0]).parent)]
            runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as leave:
        if isinstance(leave.code, str):
            print(leave.code, file=sys.stderr)
        code = leave.code if isinstance(leave.code, int) else int(leave.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return code


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2])
