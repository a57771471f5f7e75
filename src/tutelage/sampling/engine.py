"""Decoding many prompts at once, for models that run packed (`models/attention.py`).

Rows live in slots. A slot has its own part of the key-value cache, its own length, its own limit and its own random
numbers, so that no row ever sees padding and a row that ends makes room for the next prompt at once. Everything a step
needs is on the device and is changed in place, so that on CUDA the step is recorded once as a graph and replayed: a
small model's step is some hundred kernels of a few microseconds each, and launching them one by one takes longer than
running them. Elsewhere the same step runs as it is written, over the rows that are still alive.

Of prompts that begin alike (`shared_prefix.py`) the first to get a slot is read in full, the others from where they
part. One group at a time is admitted, so at most one prefix has to be kept for prompts that still wait.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tutelage.common.types import Sample
from tutelage.models.attention import Decoding, Packing
from tutelage.models.language_model import language_model_head
from tutelage.sampling.draw_token import choose, uniform_table
from tutelage.sampling.shared_prefix import Reading, Turn, passes, reading_order
from tutelage.sampling.slot_cache import SlotCache, Sources

_PREFILL_TOKENS = 32_768  # prompts are read in packed passes of about this many tokens
_KEYS_A_TOKEN = 4  # ... and at most this many times as many keys, which every layer gathers
_LOOK_EVERY = 8  # on CUDA, steps between two looks at which rows have ended; each look waits for the device


class Engine:
    """`slots` rows of at most `size` tokens, `max_new_tokens` of them new, drawn at `temperature` and `top_p`.

    `read_tokens` and `shared_tokens` of the last `generate`: prompt tokens that went through the model, and those that
    did not because another prompt had begun with them (none without `share_prefixes`).
    """

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
        share_prefixes: bool = True,
        cache_share: float = 0.5,
    ) -> None:
        self.model, self.decoder = model, model.get_decoder()
        self.device = next(model.parameters()).device
        self.size, self.room = size, max_new_tokens
        self.temperature, self.top_p = temperature, top_p
        self.slots = _slots_that_fit(model, slots, size, cache_share)
        self.cache = SlotCache(self.slots, size)
        self.ends = torch.tensor(tuple(ends) or (-1,), device=self.device)
        self.rows = self.slots  # the first `rows` slots take part in a step
        self.share_prefixes = share_prefixes
        self.read_tokens = self.shared_tokens = 0
        self.kept: tuple[int, list[Tensor]] | None = None  # a group of which some wait, and the cache of its prefix

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
        ended: Callable[[Mapping[int, Sample]], None] | None = None,
    ) -> list[Sample]:
        """One sample a prompt, of at most `limits[i]` tokens. `ended` is given what has ended since its last call."""
        waiting = deque(reading_order(prompts, share=self.share_prefixes))
        self.read_tokens, self.shared_tokens, self.kept = 0, 0, None
        owner: dict[int, int] = {}  # slot → prompt
        out: dict[int, Sample] = {}
        self.rows = self.slots
        while waiting or owner:
            free = [slot for slot in range(self.slots) if slot not in owner]
            # Reading prompts stops everybody else, so wait until an eighth of the slots is free.
            if waiting and len(free) >= min(len(waiting), max(1, self.slots // 8)):
                turns = [waiting.popleft() for _ in range(min(len(free), len(waiting)))]
                taken = free[: len(turns)]
                owner |= {slot: turn.index for slot, turn in zip(taken, turns, strict=True)}
                readings = self._readings(taken, turns, prompts)
                self._admit(readings, [limits[t.index] for t in turns], [seeds[t.index] for t in turns])
                self._keep(readings[-1], turns[-1], waiting)
            elif not waiting and self.graph is None:
                owner = self._compact(owner)
            self._advance()
            done = self._collect(owner)
            out |= done
            owner = {slot: i for slot, i in owner.items() if i not in done}
            if done and ended is not None:
                ended(done)
        return [out[i] for i in range(len(prompts))]

    def _readings(self, slots: list[int], turns: list[Turn], prompts: Sequence[Sequence[int]]) -> list[Reading]:
        """What of each prompt is left to read, and where the rest is: the first of a group has it for the others."""
        holders: dict[int, int] = {}
        out = []
        for slot, turn in zip(slots, turns, strict=True):
            start = turn.shared if turn.group in holders else 0
            if self.kept is not None and self.kept[0] == turn.group and turn.group not in holders:
                self.cache.put(slot, self.kept[1])
                start = turn.shared
            out.append(Reading(prompts[turn.index], slot, start, holders.setdefault(turn.group, slot)))
        return out

    def _keep(self, reading: Reading, turn: Turn, waiting: deque[Turn]) -> None:
        """Keep the prefix of the last prompt read, if others of its group wait: its holder may end before they come."""
        if waiting and waiting[0].group == turn.group:
            self.kept = turn.group, self.cache.copy_of(reading.holder, turn.shared)
        else:
            self.kept = None

    def _admit(self, readings: list[Reading], limits: list[int], seeds: list[int]) -> None:
        """Read prompts into their slots and draw the first token of each."""
        places = torch.tensor([r.slot for r in readings], device=self.device)
        self.uniforms[places] = uniform_table(seeds, self.room).to(self.device)
        self.limits[places] = torch.tensor(limits, device=self.device)
        self.lengths[places] = torch.tensor([len(r.ids) for r in readings], device=self.device)
        self.written[places] = 0
        self.live[places], self.ended[places] = True, False
        for part in passes(readings, _PREFILL_TOKENS, _KEYS_A_TOKEN):
            self._draw(torch.tensor([r.slot for r in part], device=self.device), self._prefill(part))

    def _prefill(self, readings: list[Reading]) -> Tensor:
        """Run prompts in one packed pass and keep their keys and values; the last hidden state of each, [B, D]."""
        slots, starts, whole = [r.slot for r in readings], [r.start for r in readings], [len(r.ids) for r in readings]
        lengths = [n - start for n, start in zip(whole, starts, strict=True)]
        ids = torch.tensor([t for r in readings for t in r.ids[r.start :]], device=self.device)[None]
        positions = torch.cat([torch.arange(r.start, len(r.ids)) for r in readings]).to(self.device)
        keys = sources = None
        if any(starts):
            keys = Packing.of(whole, self.device)
            places = torch.cat([torch.arange(n) for n in whole])
            rows, holders = _each(slots, whole), _each([r.holder for r in readings], whole)
            held = torch.where(places < _each(starts, whole), holders, rows)
            sources = Sources(held.to(self.device), rows.to(self.device), places.to(self.device))
        packing = Packing.of(lengths, self.device, keys)
        self.cache.write_to(_each(slots, lengths).to(self.device), positions, max(whole), sources)
        out = self.decoder(
            input_ids=ids, position_ids=positions[None], past_key_values=self.cache, use_cache=True, packing=packing
        )
        self.read_tokens += sum(lengths)
        self.shared_tokens += sum(starts)
        return out.last_hidden_state[0, packing.cu_seqlens[1:].long() - 1]

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


def _each(values: list[int], times: list[int]) -> Tensor:
    """values[i], times[i] times over."""
    return torch.tensor(values).repeat_interleave(torch.tensor(times))


def _slots_that_fit(model: Any, slots: int, size: int, share: float) -> int:
    """As many slots as that share of a CUDA device's free memory holds keys and values for, at least one."""
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
    return max(1, min(slots, int(share * free / a_slot)))
