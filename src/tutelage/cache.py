"""The tool's own cache folder, and hashes of large files kept in it."""

from __future__ import annotations

import os
from pathlib import Path

from tutelage.config import fingerprint, hash_file


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
    memo.parent.mkdir(parents=True, exist_ok=True)
    partial = memo.with_suffix(f".{os.getpid()}")
    partial.write_text(value)
    partial.replace(memo)
    return value
