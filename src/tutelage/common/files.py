"""Files: atomic writes, hashes, and the cache folder of this tool."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from tutelage.common.errors import TutelageError
from tutelage.common.hashing import fingerprint


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
        return cached.read_text()
    value = hash_file(path)
    write_atomically(cached, value)
    return value


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes (hex)."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


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
            os.chmod(name, 0o644)  # mkstemp creates files that only their owner can read
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise TutelageError(
            f"{path} cannot be written: {error.strerror or error}; free some space, or choose another folder"
        ) from error
    return path
