"""Decoding many prompts at once, for models that run packed (`attention.py`).

Rows live in slots. A slot has its own part of the key-value cache, its own length, its own limit and its own random
numbers, so that no row ever sees padding and a row that ends makes room for the next prompt at once. Everything a step
needs is on the device and is changed in place, so that on CUDA the step is recorded once as a graph and replayed: a
small model's step is some hundred kernels of a few microseconds each, and launching them one by one takes longer than
running them. Elsewhere the same step runs as it is written, over the rows that are still alive.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tutelage.attention import Decoding, Packing
from tutelage.batch import group_by_budget
from tutelage.draw import draw, uniform_table
from tutelage.kernels.chunked import chunk_logits
from tutelage.model import language_model_head
from tutelage.types import Sample

_PREFILL_TOKENS = 32_768  # prompts are read in packed passes of about this many tokens
_LOOK_EVERY = 8  # on CUDA, steps between two looks at which rows have ended; each look waits for the device
_CACHE_SHARE = 0.5  # of the free device memory, at most, for keys and values


class Engine:
    """`slots` rows of at most `size` tokens, `max_new_tokens` of them new, drawn at `temperature` and `top_p`."""

    def __init__(
        self,
        model: Any,
        ends: Sequence[int],
        *,
        slots: int,
        size: int,
        max_new_tokens: int,
        temperature: float,
        top_p: float,
    ) -> None:
        self.model, self.decoder = model, model.get_decoder()
        self.device = next(model.parameters()).device
        self.size, self.room = size, max_new_tokens
        self.temperature, self.top_p = temperature, top_p
        self.slots = _slots_that_fit(model, slots, size)
        self.cache = SlotCache(self.slots, size)
        self.ends = torch.tensor(tuple(ends) or (-1,), device=self.device)
        self.rows = self.slots  # the first `rows` slots take part in a step

        def zeros(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=self.device)

        count = self.slots
        self.every = torch.arange(count, device=self.device)
        self.live = zeros(count, dtype=torch.bool)
        self.ended = zeros(count, dtype=torch.bool)  # by an end token, not by the limit
        self.lengths = zeros(count)  # tokens in the cache
        self.written = zeros(count)  # new tokens so far
        self.limits = zeros(count)
        self.last = zeros(count)  # the token to feed next
        self.uniforms = zeros(count, max_new_tokens, dtype=torch.float64)
        # One column more than needed: what a row that has ended goes on drawing is thrown there.
        self.tokens = zeros(count, max_new_tokens + 1)
        self.logprobs = zeros(count, max_new_tokens + 1, dtype=torch.float32)
        self.graph = self._record_graph() if self.device.type == "cuda" else None

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        limits: Sequence[int],
        seeds: Sequence[int],
        progress: Callable[[int], None] | None = None,
    ) -> list[Sample]:
        """One sample a prompt, of at most `limits[i]` tokens. `progress` is told how many ended since the last call."""
        waiting = deque(sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i)))
        owner: dict[int, int] = {}  # slot → prompt
        out: dict[int, Sample] = {}
        self.rows = self.slots
        while waiting or owner:
            free = [slot for slot in range(self.slots) if slot not in owner]
            # Reading prompts stops everybody else, so wait until an eighth of the slots is free.
            if waiting and len(free) >= min(len(waiting), max(1, self.slots // 8)):
                chosen = [waiting.popleft() for _ in range(min(len(free), len(waiting)))]
                taken = free[: len(chosen)]
                owner |= dict(zip(taken, chosen, strict=True))
                self._admit(
                    taken, [prompts[i] for i in chosen], [limits[i] for i in chosen], [seeds[i] for i in chosen]
                )
            elif not waiting and self.graph is None:
                owner = self._compact(owner)
            self._advance()
            done = self._collect(owner)
            out |= done
            owner = {slot: i for slot, i in owner.items() if i not in done}
            if done and progress is not None:
                progress(len(done))
        return [out[i] for i in range(len(prompts))]

    def _admit(self, slots: list[int], prompts: list[Sequence[int]], limits: list[int], seeds: list[int]) -> None:
        """Read prompts into slots and draw the first token of each."""
        places = torch.tensor(slots, device=self.device)
        self.uniforms[places] = uniform_table(seeds, self.room).to(self.device)
        self.limits[places] = torch.tensor(limits, device=self.device)
        self.lengths[places] = torch.tensor([len(p) for p in prompts], device=self.device)
        self.written[places] = 0
        self.live[places], self.ended[places] = True, False
        for group in group_by_budget([len(p) for p in prompts], _PREFILL_TOKENS, padded=False):
            part = places[torch.tensor(group, device=self.device)]
            hidden = self._prefill([prompts[i] for i in group], part)
            self._draw(part, hidden)

    def _prefill(self, prompts: list[Sequence[int]], slots: Tensor) -> Tensor:
        """Run prompts in one packed pass and keep their keys and values; the last hidden state of each, [B, D]."""
        lengths = [len(p) for p in prompts]
        ids = torch.tensor([t for p in prompts for t in p], device=self.device)[None]
        positions = torch.cat([torch.arange(n) for n in lengths]).to(self.device)
        cu = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32).to(self.device)
        places = slots.repeat_interleave(torch.tensor(lengths, device=self.device))
        self.cache.write_to(places, positions, max(lengths))
        packing = Packing(cu, tuple(lengths))
        out = self.decoder(
            input_ids=ids, position_ids=positions[None], past_key_values=self.cache, use_cache=True, packing=packing
        )
        return out.last_hidden_state[0, cu[1:].long() - 1]

    def _step(self) -> None:
        """Feed each row's last token and draw its next. Only the device takes part."""
        rows, lengths = self.every[: self.rows], self.lengths[: self.rows]
        seen = torch.where(self.live[: self.rows], lengths + 1, 1)  # rows that have ended cost next to nothing
        # Off CUDA the longest row is known, and only that much of the cache is looked at.
        used = self.size if self.device.type == "cuda" else int(seen.max())
        self.cache.write_at(rows, lengths, used)
        out = self.decoder(
            input_ids=self.last[: self.rows, None],
            position_ids=lengths[:, None],
            past_key_values=self.cache,
            use_cache=True,
            decoding=Decoding(seen),
        )
        lengths += self.live[: self.rows]
        self._draw(rows, out.last_hidden_state[:, 0])

    def _draw(self, rows: Tensor, hidden: Tensor) -> None:
        """The next token of each of `rows` from last hidden states [B, D]: chosen, written down, checked for an end."""
        live, written = self.live[rows], self.written[rows]
        uniforms = self.uniforms[rows, written.clamp(max=self.room - 1)]
        chosen, logprob = choose(hidden, language_model_head(self.model), uniforms, self.temperature, self.top_p)
        column = torch.where(live, written, self.room)
        self.tokens[rows, column] = chosen
        self.logprobs[rows, column] = logprob
        written = written + live
        at_end = torch.isin(chosen, self.ends) & live
        self.last[rows], self.written[rows] = chosen, written
        self.ended[rows] = self.ended[rows] | at_end
        self.live[rows] = live & ~at_end & (written < self.limits[rows])

    def _advance(self) -> None:
        if self.graph is None:
            if bool(self.live[: self.rows].any()):
                self._step()
            return
        for _ in range(_LOOK_EVERY):
            self.graph.replay()

    def _collect(self, owner: dict[int, int]) -> dict[int, Sample]:
        """The samples of the rows that have ended since the last look."""
        live = self.live.tolist()
        over = [slot for slot in owner if not live[slot]]
        if not over:
            return {}
        places = torch.tensor(over, device=self.device)
        columns = (x[places].tolist() for x in (self.tokens, self.logprobs, self.written, self.ended))
        rows = zip(over, *columns, strict=True)
        return {owner[slot]: Sample(tuple(t[:n]), tuple(p[:n]), done) for slot, t, p, n, done in rows}

    def _compact(self, owner: dict[int, int]) -> dict[int, int]:
        """Move the rows that are alive to the front, once that spares an eighth of the step."""
        if self.rows - len(owner) < max(1, self.rows // 8):
            return owner
        keep = sorted(owner)
        self.cache.move(torch.tensor(keep, device=self.device))
        state = (self.live, self.ended, self.lengths, self.written, self.limits, self.last)
        for tensor in (*state, self.uniforms, self.tokens, self.logprobs):
            tensor[: len(keep)] = tensor[keep]
        self.live[len(keep) :] = False
        self.rows = len(keep)
        return {place: owner[slot] for place, slot in enumerate(keep)}

    @torch.no_grad()
    def _record_graph(self) -> Any:
        """The step as a CUDA graph. It is recorded while no row is alive, so it changes nothing that counts."""
        side = torch.cuda.Stream(self.device)
        side.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(side):
            for _ in range(2):  # compiles kernels and makes the cache before recording
                self._step()
        torch.cuda.current_stream(self.device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self._step()
        except RuntimeError as error:
            torch.cuda.synchronize(self.device)
            reason = str(error).strip().splitlines()[0]
            warnings.warn(
                f"this model's decoding step cannot be recorded as a CUDA graph ({reason}): it runs without, "
                "several times slower",
                stacklevel=2,
            )
            return None
        return graph


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
        self._used = 0  # 0: reading prompts

    def write_to(self, slots: Tensor, positions: Tensor, longest: int) -> None:
        """The next pass is packed: its token t goes to (slots[t], positions[t]); the longest row has `longest`."""
        self._places, self._used = (slots, positions), 0
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
        if reading:
            return key, value
        return tuple(store[layer_idx][: len(rows), :, : self._used] for store in (self.keys, self.values))  # type: ignore[return-value]

    def get_seq_length(self, *_: Any) -> int:
        """Asked by models that could work positions out from it (OPT); they are given."""
        return 0

    def move(self, keep: Tensor) -> None:
        """Slot keep[i] becomes slot i."""
        for store in (self.keys, self.values):
            for layer in store.values():
                layer[: len(keep)] = layer[keep]


def choose(hidden: Tensor, head: Any, uniforms: Tensor, temperature: float, top_p: float) -> tuple[Tensor, Tensor]:
    """Next tokens [B] and their log-probabilities [B] from last hidden states [B, D] (see `sampler.py`)."""
    logits = chunk_logits(hidden, head)
    if temperature not in (0.0, 1.0):
        logits /= temperature
    norm = logits.logsumexp(-1)
    chosen = logits.argmax(-1) if temperature == 0.0 else draw((logits - norm[:, None]).exp_(), uniforms, top_p)
    return chosen, logits.gather(-1, chosen[:, None]).squeeze(-1) - norm


def _slots_that_fit(model: Any, slots: int, size: int) -> int:
    """As many slots as the free memory of a CUDA device holds keys and values for, at least one."""
    parameter = next(model.parameters())
    if parameter.device.type != "cuda":
        return slots
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    a_slot = 2 * config.num_hidden_layers * heads * width * size * parameter.element_size()
    free = torch.cuda.mem_get_info(parameter.device)[0] + (
        torch.cuda.memory_reserved(parameter.device) - torch.cuda.memory_allocated(parameter.device)
    )
    return max(1, min(slots, int(_CACHE_SHARE * free / a_slot)))
