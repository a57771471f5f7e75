"""Fingerprints of values, and random numbers that only their keys determine."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import BaseModel


def canonical(value: Any) -> str:
    """JSON with sorted keys: the same text for equal configs, whatever order they were written in."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def fingerprint(*parts: Any) -> str:
    """Twelve hex digits that change when anything that matters changes. Parts are configs, JSON values or hashes."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(canonical(part).encode())
        digest.update(b"\0")
    return digest.hexdigest()[:12]


def keyed_integer(*key: int | str) -> int:
    """A 63-bit number that depends on the key alone."""
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def keyed_uniform(*key: int | str) -> float:
    """A number in [0, 1) that depends on the key alone."""
    return (keyed_integer(*key) >> 10) / 2**53


def example_seed(seed: int, example_id: str) -> int:
    """A 63-bit seed of one example, the same whatever else is evaluated beside it."""
    digest = hashlib.blake2b(f"{seed}\0{example_id}".encode("utf-8", "backslashreplace"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
