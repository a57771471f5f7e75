"""Files: atomic writes, hashes, and the cache folder of this tool."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tutelage.common.errors import TutelageError
from tutelage.common.hashing import fingerprint

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def cache_folder() -> Path:
    """Return `$TUTELAGE_CACHE`, or `tutelage` in the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "tutelage"
    return Path(os.environ.get("TUTELAGE_CACHE", default))


def cached_hash(path: Path) -> str:
    """SHA-256 of a file (hex), cached under its path, size and modification time: large weights are read once."""
    stat = path.stat()
    key = fingerprint(str(path.resolve()), stat.st_size, stat.st_mtime_ns)
    cached = cache_folder() / "hashes" / key
    if cached.is_file():
        value, _, check = cached.read_text(errors="replace").partition(" ")
        if check == fingerprint(value):
            return value
    value = hash_file(path)
    write_atomically(cached, f"{value} {fingerprint(value)}")
    return value


def hash_file(path: Path, sync: bool = False) -> str:
    """SHA-256 of a file's bytes (hex). With `sync`, they are on the disk when this returns."""
    with path.open("rb") as handle:
        if sync:
            os.fsync(handle.fileno())
        return hashlib.file_digest(handle, "sha256").hexdigest()


def storage_problem(error: BaseException) -> str | None:
    """If `error`, or one that it comes from, is a full disk, or a folder that may not be written or is a file: one line
    that says so, with what to do; else None. Other languages' libraries tell the system's error number in their text.
    """
    cause: BaseException | None = error
    while cause is not None:
        text = str(cause)
        number = cause.errno if isinstance(cause, OSError) else None
        told = re.search(r"\bos error (\d+)\b", text)
        number = int(told[1]) if number is None and told else number
        name = getattr(cause, "filename", None)
        where = f"{name}: " if isinstance(name, str) else ""
        if number in _FULL or "PytorchStreamWriter failed" in text:
            return f"{where}no space is left on the disk; free some, then the same command goes on"
        if number == errno.EACCES and isinstance(name, str) and os.path.isfile(name) and not os.access(name, os.R_OK):
            return f"{where}{os.strerror(errno.EACCES)}; give read permission to it (chmod +r)"
        if number in (errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO):
            return f"{where}{os.strerror(number)}; mend that, or choose another folder, then the same command goes on"
        if number in (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP):
            return f"{where}{os.strerror(number)}; choose another folder, then the same command goes on"
        cause = cause.__cause__ or cause.__context__
    return None


def _existing(folder: Path) -> Path:
    """The folder, or where it is absent the nearest one above it that is not."""
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    return folder


def unwritable(folder: Path) -> str | None:
    """Why no file can be written into a folder, which is to be made if it is absent; None: one can. Writes nothing."""
    place = _existing(folder)
    try:
        if place.is_dir():
            folder.lstat()
    except FileNotFoundError:
        pass
    except OSError as error:  # a name that is too long, a folder that may not be entered
        return f"{error.filename}: {error.strerror}"
    if not place.is_dir():
        return f"{place} is {'a link to nothing' if place.is_symlink() and not place.exists() else 'a file'}"
    allowed = os.access(place, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids)
    whose = "its permissions" if place == folder else f"the permissions of {place.absolute()}"
    return None if allowed else f"{whose} forbid it"


def _refuses(place: Path) -> str | None:
    """Why a folder takes nothing new, though its permissions allow it (/proc, a full disk, a server's rules): tried."""
    try:
        os.rmdir(tempfile.mkdtemp(prefix=".tutelage-", dir=place))
    except OSError as error:
        return f"{place} takes nothing new ({error.strerror})"
    return None


def refuse_unwritable(folder: Path, option: str = "", what: str = "") -> None:
    """Raise TutelageError, before work whose results would have no place, if `folder` (see `unwritable`) cannot be
    written. `option`: what sets it, for the message. `what`: goes there where that is not given; empty: it was given,
    or the folder says it."""
    if reason := unwritable(folder) or _refuses(_existing(folder)):
        of = f", where {what} goes by default," if what else ""
        raise TutelageError(no_place(folder, reason, option, of))


def no_place(folder: Path, reason: str, option: str = "", of: str = "") -> str:
    """That a folder cannot be written, for a `reason` of `unwritable`, and what to do."""
    shown = folder.absolute() if folder == Path() else folder
    by, mend = f" by {option}" if option else "", "allow it (chmod u+w)" if "permissions" in reason else "mend that"
    return f"{shown}{of} cannot be written: {reason}: choose another folder{by}, or {mend}"


@contextlib.contextmanager
def alone_in(folder: Path, wait: str = "") -> Iterator[Path]:
    """Hold the system's lock on a folder, which is made if it is absent; it ends with this process.

    Raises TutelageError when another process holds it; with `wait`, prints that text and waits.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                raise TutelageError(f"another process is writing to {folder}: wait for it, or stop it") from None
            print(wait, flush=True)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield folder
    finally:
        os.close(descriptor)


def write_atomically(path: Path, text: str) -> Path:
    """Write UTF-8 text so that a reader sees the old file or the whole new one; makes the folder. Returns `path`.

    A lone surrogate, which JSON may contain and UTF-8 may not, is written as its escape (in JSON: the same string).
    Raises TutelageError when the file cannot be written.
    """
    return write_bytes_atomically(path, text.encode("utf-8", "backslashreplace"))


def write_bytes_atomically(path: Path, content: bytes) -> Path:
    """Like `write_atomically`, for bytes."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as handle:
                handle.write(content)
                handle.flush()
                os.fsync(handle.fileno())  # after a power cut a renamed file must not be without content
            os.chmod(name, 0o644)  # mkstemp creates files that only their owner can read
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        cure = "free some space" if error.errno in _FULL else "mend that"
        other = (
            "set TUTELAGE_CACHE to another folder" if path.is_relative_to(cache_folder()) else "choose another folder"
        )
        raise TutelageError(f"{path} cannot be written: {error.strerror or error}; {cure}, or {other}") from error
    return path
