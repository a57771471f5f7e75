"""Files: written atomically, hashed, and the tool's own cache folder."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from tutelage.common.errors import TutelageError
from tutelage.common.hashing import fingerprint


def cache_folder() -> Path:
    """`$TUTELAGE_CACHE`, or `tutelage` in the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "tutelage"
    return Path(os.environ.get("TUTELAGE_CACHE", default))


def cached_hash(path: Path) -> str:
    """SHA-256 of a file, kept beside the caches by (path, size, time): 70B weights are not read twice."""
    stat = path.stat()
    key = fingerprint(str(path.resolve()), stat.st_size, stat.st_mtime_ns)
    memo = cache_folder() / "hashes" / key
    if memo.is_file():
        return memo.read_text()
    value = hash_file(path)
    write_atomically(memo, value)
    return value


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes, hex."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def write_atomically(path: Path, text: str) -> Path:
    """Write UTF-8 text so that a reader sees the old file or the whole new one. Makes the folder.

    A lone surrogate, which JSON data may carry and UTF-8 cannot, is written as its escape (in JSON: the same string).
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
            os.chmod(name, 0o644)  # mkstemp's 0600 would keep colleagues from reading a report
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise TutelageError(
            f"{path} cannot be written: {error.strerror or error}; make room, or give another folder"
        ) from error
    return path
