"""The key-value cache of the engine: each row has a slot of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Sources:
    """Where a packed pass finds the K keys that it attends to, int64 [K] each.

    Key k is in slot `holders[k]` at `positions[k]`, and belongs to the row in slot `rows[k]`.
    """

    holders: Tensor
    rows: Tensor
    positions: Tensor


class SlotCache:
    """Keys and values per layer, [slots, H_kv, capacity, E], with the interface of transformers' cache.

    The capacity grows with the longest row, up to `size` positions, because most rows end long before their limit. On
    CUDA the recorded graph needs a fixed shape, so the cache is allocated in full at once. `kernels`: a decoding step
    writes by a kernel (`step_kernels.py`).
    """

    def __init__(self, slots: int, size: int) -> None:
        self.kernels = False
        self.slots, self.size, self.capacity = slots, size, 0
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}
        self._destination: tuple[Tensor, Tensor] | None = None
        self._sources: Sources | None = None
        self._used = 0  # positions that a decoding step attends to; 0 during prefill

    def begin_prefill(self, slots: Tensor, positions: Tensor, longest: int, sources: Sources | None = None) -> None:
        """Announce a packed pass: its token t goes to (slots[t], positions[t]); the longest row has `longest` tokens.

        With `sources`, rows copy prefixes that other slots have, or get by this very pass.
        """
        self._destination, self._sources, self._used = (slots, positions), sources, 0
        self._grow(longest)

    def begin_decode(self, rows: Tensor, positions: Tensor, used: int) -> None:
        """Announce a pass of one token per row; attention covers the first `used` positions."""
        self._destination, self._used = (rows, positions), used
        self._grow(used)

    def _grow(self, needed: int) -> None:
        """Enlarge the cache to at least `needed` positions per slot."""
        needed = min(needed + 1, self.size)  # an ended row goes on writing after its last token
        if needed <= self.capacity:
            return
        self.capacity = min(max(needed, self.capacity * 3 // 2), self.size)
        for store in (self.keys, self.values):
            for layer, old in store.items():
                store[layer] = F.pad(old, (0, 0, 0, self.capacity - old.shape[2]))

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Called by each attention layer: store the new keys and values, return all that the pass attends to."""
        assert self._destination is not None
        rows, positions = self._destination
        prefill = self._used == 0
        for store, new in ((self.keys, key), (self.values, value)):
            if layer_idx not in store:
                store[layer_idx] = new.new_zeros((self.slots, new.shape[1], self.capacity, new.shape[3]))
        keys, values = self.keys[layer_idx], self.values[layer_idx]
        if self.kernels and not prefill and key.shape == value.shape and key.stride(-1) == value.stride(-1) == 1:
            from tutelage.sampling.step_kernels import write_to_slots

            write_to_slots(key, value, keys, values, rows, positions)
        else:
            for store, new in ((keys, key), (values, value)):
                store[rows, :, positions] = new[0].transpose(0, 1) if prefill else new[:, :, 0]
        if prefill and self._sources is None:
            return key, value
        if prefill:
            return self._copy_from_holders(keys), self._copy_from_holders(values)
        return keys[: len(rows), :, : self._used], values[: len(rows), :, : self._used]

    def _copy_from_holders(self, layer: Tensor) -> Tensor:
        """Copy shared prefixes to each row's slot; returns all that the pass attends to, [1, H_kv, K, E]."""
        assert self._sources is not None
        holders, rows, positions = self._sources.holders, self._sources.rows, self._sources.positions
        found = layer[holders, :, positions]
        layer[rows, :, positions] = found
        return found.transpose(0, 1)[None]

    def get_seq_length(self, *_: Any) -> int:
        """0: some models (OPT) ask for it to compute positions, which the engine passes anyway."""
        return 0

    def compact(self, keep: Tensor) -> None:
        """Move slot keep[i] to slot i."""
        for store in (self.keys, self.values):
            for layer in store.values():
                layer[: len(keep)] = layer[keep]

    def copy_prefix(self, slot: int, length: int) -> list[Tensor]:
        """A copy of the first `length` positions of a slot, for `restore`."""
        return [layer[slot, :, :length].clone() for store in (self.keys, self.values) for layer in store.values()]

    def restore(self, slot: int, copy: list[Tensor]) -> None:
        """Write a copy made by `copy_prefix` to the beginning of a slot."""
        layers = [layer for store in (self.keys, self.values) for layer in store.values()]
        for layer, part in zip(layers, copy, strict=True):
            layer[slot, :, : part.shape[1]] = part
