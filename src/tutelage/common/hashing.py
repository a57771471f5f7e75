"""Fingerprints of values, and pseudo-random numbers that depend on nothing but their keys."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import BaseModel


def canonical(value: Any) -> str:
    """`value` (a config or JSON value) as JSON with sorted keys: equal values give equal text."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def fingerprint(*parts: Any) -> str:
    """Twelve hex digits of the SHA-256 of all parts. A part is a config, a JSON value or a hash."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(canonical(part).encode())
        digest.update(b"\0")
    return digest.hexdigest()[:12]


def keyed_integer(*key: int | str) -> int:
    """A 63-bit integer that depends on the key alone."""
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def keyed_uniform(*key: int | str) -> float:
    """A number in [0, 1) that depends on the key alone."""
    return (keyed_integer(*key) >> 10) / 2**53


def example_seed(seed: int, example_id: str) -> int:
    """A 63-bit seed for one example, which does not depend on the other examples."""
    # Not `keyed_integer`: the answers of finished evaluations depend on these seeds.
    digest = hashlib.blake2b(f"{seed}\0{example_id}".encode("utf-8", "backslashreplace"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
