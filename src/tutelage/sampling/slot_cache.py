"""The keys and values of the rows that an engine decodes: each row has a slot of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Sources:
    """Where a packed pass finds all K keys that it attends to: key k lies in slot `held[k]` at `positions[k]`, and
    belongs to the row in slot `rows[k]`. int64 [K] each."""

    held: Tensor
    rows: Tensor
    positions: Tensor


class SlotCache:
    """Keys and values [slots, H_kv, room, E] a layer. Looks like transformers' cache to the attention layers.

    The room grows with the longest row, up to `size`: most rows end long before their limit. On CUDA the recorded step
    needs it whole, and gets it by looking at all of it.
    """

    def __init__(self, slots: int, size: int) -> None:
        self.slots, self.size, self.room = slots, size, 0
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}
        self._places: tuple[Tensor, Tensor] | None = None
        self._sources: Sources | None = None
        self._used = 0  # 0: reading prompts

    def write_to(self, slots: Tensor, positions: Tensor, longest: int, sources: Sources | None = None) -> None:
        """The next pass is packed: its token t goes to (slots[t], positions[t]); the longest row has `longest`.

        With `sources`, rows take over what other slots hold, or get in this very pass.
        """
        self._places, self._sources, self._used = (slots, positions), sources, 0
        self._make_room(longest)

    def write_at(self, rows: Tensor, positions: Tensor, used: int) -> None:
        """The next pass has one token a row; attention looks at the first `used` positions."""
        self._places, self._used = (rows, positions), used
        self._make_room(used)

    def _make_room(self, needed: int) -> None:
        needed = min(needed + 1, self.size)  # a row that has ended goes on writing behind its last token
        if needed <= self.room:
            return
        self.room = min(max(needed, self.room * 3 // 2), self.size)
        for store in (self.keys, self.values):
            for layer, old in store.items():
                store[layer] = F.pad(old, (0, 0, 0, self.room - old.shape[2]))

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Called by each attention layer: store the new keys and values, give back what to attend to."""
        assert self._places is not None
        rows, positions = self._places
        reading = self._used == 0
        for store, new in ((self.keys, key), (self.values, value)):
            if layer_idx not in store:
                store[layer_idx] = new.new_zeros((self.slots, new.shape[1], self.room, new.shape[3]))
            store[layer_idx][rows, :, positions] = new[0].transpose(0, 1) if reading else new[:, :, 0]
        if reading and self._sources is None:
            return key, value
        keys, values = self.keys[layer_idx], self.values[layer_idx]
        if reading:
            return self._take_over(keys), self._take_over(values)
        return keys[: len(rows), :, : self._used], values[: len(rows), :, : self._used]

    def _take_over(self, layer: Tensor) -> Tensor:
        """Copy to each row what it has in another slot; all that the pass attends to, [1, H_kv, K, E]."""
        assert self._sources is not None
        held, rows, positions = self._sources.held, self._sources.rows, self._sources.positions
        found = layer[held, :, positions]
        layer[rows, :, positions] = found
        return found.transpose(0, 1)[None]

    def get_seq_length(self, *_: Any) -> int:
        """Asked by models that could work positions out from it (OPT); they are given."""
        return 0

    def move(self, keep: Tensor) -> None:
        """Slot keep[i] becomes slot i."""
        for store in (self.keys, self.values):
            for layer in store.values():
                layer[: len(keep)] = layer[keep]

    def copy_of(self, slot: int, length: int) -> list[Tensor]:
        """The first `length` positions of a slot, for `put`; the slot may then serve another row."""
        return [layer[slot, :, :length].clone() for store in (self.keys, self.values) for layer in store.values()]

    def put(self, slot: int, copy: list[Tensor]) -> None:
        """Write what `copy_of` gave to the beginning of a slot."""
        layers = [layer for store in (self.keys, self.values) for layer in store.values()]
        for layer, part in zip(layers, copy, strict=True):
            layer[slot, :, : part.shape[1]] = part
