"""Decoding many prompts at once, for models that take packed sequences (`models/attention.py`).

Each row (a prompt and its response) has a slot: a part of the key-value cache with its own length, limit and random
numbers. So no row sees padding, and the slot of a row that has ended takes the next prompt at once. All state of a step
is on the device and changed in place, so that on CUDA the step is recorded once as a graph and replayed: a small
model's step has several hundred kernels of a few microseconds each, and launching them one by one takes longer than
running them. On other devices the same step runs without a graph, over the rows that have not ended. On CUDA, rotary
embedding, cache and draw are kernels of this folder (`step_kernels.py`, `draw_kernels.py`), unless they do not compile.

Of prompts with a common prefix (`shared_prefix.py`) the first to get a slot is read in full; the others copy the
prefix's keys and values and are read from there on. Groups are admitted one after the other, so at most one prefix has
to be kept for prompts that are still waiting.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tutelage.common.types import Sample
from tutelage.loss.chunk import chunk_logits
from tutelage.models.attention import Decoding, Packing
from tutelage.models.language_model import language_model_head
from tutelage.sampling.draw_token import choose, uniform_table
from tutelage.sampling.rotary import Exchange, exchanged, fused_rotary
from tutelage.sampling.sampler import Ended
from tutelage.sampling.shared_prefix import GroupedPrompt, Prefill, passes, reading_order
from tutelage.sampling.slot_cache import SlotCache, Sources

if TYPE_CHECKING:
    from tutelage.sampling.fused_step import FusedStep

_PREFILL_TOKENS = 32_768  # tokens per packed prefill pass, about
_KEYS_PER_TOKEN = 4  # a pass may attend to this many times as many keys as it has tokens; every layer gathers them
_STEPS_PER_CHECK = 8  # on CUDA, steps between two checks for ended rows; each check waits for the device


class Engine:
    """Decodes up to `slots` rows at a time, of at most `size` tokens each, at most `max_new_tokens` of them new.

    ends: token ids that end a row. slots: fewer if `cache_share` of a CUDA device's free memory has no room for all.
    kernels: whether a decoding step uses the Triton kernels of this folder; by default on CUDA.
    After `generate`, `read_tokens` is the number of prompt tokens that went through the model, and `shared_tokens` the
    number copied from a prompt with the same prefix (0 without `share_prefixes`).
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
        kernels: bool | None = None,
    ) -> None:
        self.model, self.decoder = model, model.get_decoder()
        self.device = next(model.parameters()).device
        self.size, self.new_tokens = size, max_new_tokens
        self.temperature, self.top_p = temperature, top_p
        self.slots = _slots_that_fit(model, slots, size, cache_share)
        self.cache = SlotCache(self.slots, size)
        self.ends = torch.tensor(tuple(ends) or (-1,), device=self.device)
        self.active = self.slots  # a step runs over the first `active` slots
        self.share_prefixes = share_prefixes
        self.read_tokens = self.shared_tokens = 0
        # A group with prompts still waiting, and its prefix's keys and values.
        self.kept_prefix: tuple[int, list[Tensor]] | None = None

        def zeros(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=self.device)

        count = self.slots
        self.all_slots = torch.arange(count, device=self.device)
        self.live = zeros(count, dtype=torch.bool)
        self.ended = zeros(count, dtype=torch.bool)  # by an end token, not by the length limit
        self.lengths = zeros(count)  # tokens in the cache
        self.written = zeros(count)  # new tokens so far
        self.limits = zeros(count)
        self.last = zeros(count)  # the token to feed next
        self.uniforms = zeros(count, max_new_tokens, dtype=torch.float64)
        # The extra last column takes the tokens that ended rows go on drawing.
        self.tokens = zeros(count, max_new_tokens + 1)
        self.logprobs = zeros(count, max_new_tokens + 1, dtype=torch.float32)
        self.kernels, self.rotary = False, list[Exchange]()
        self.fused: FusedStep | None = None  # for some architectures, where the kernels run
        if kernels or (kernels is None and self.device.type == "cuda"):
            self._try_kernels()
        self.graph = self._record_graph() if self.device.type == "cuda" else None

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        limits: Sequence[int],
        seeds: Sequence[int],
        ended: Ended | None = None,
    ) -> list[Sample]:
        """One sample per prompt, of at most limits[i] tokens, with the random numbers of seeds[i].

        `ended` is called with the samples that have ended since its last call, by index of the prompt.
        """
        if self.fused is not None:
            self.fused.refresh()
        waiting = deque(reading_order(prompts, share=self.share_prefixes))
        self.read_tokens, self.shared_tokens, self.kept_prefix = 0, 0, None
        owner: dict[int, int] = {}  # slot → prompt
        out: dict[int, Sample] = {}
        self.active = self.slots
        while waiting or owner:
            free = [slot for slot in range(self.slots) if slot not in owner]
            # Prefill pauses all decoding, so wait until an eighth of the slots is free.
            if waiting and len(free) >= min(len(waiting), max(1, self.slots // 8)):
                admitted = [waiting.popleft() for _ in range(min(len(free), len(waiting)))]
                taken = free[: len(admitted)]
                owner |= {slot: prompt.index for slot, prompt in zip(taken, admitted, strict=True)}
                prefills = self._prefills(taken, admitted, prompts)
                self._admit(prefills, [limits[t.index] for t in admitted], [seeds[t.index] for t in admitted])
                self._keep_prefix(prefills[-1], admitted[-1], waiting)
            elif not waiting and self.graph is None:
                owner = self._compact(owner)
            self._advance()
            collected = self._collect(owner)
            out |= collected
            owner = {slot: i for slot, i in owner.items() if i not in collected}
            if collected and ended is not None:
                ended(collected)
        return [out[i] for i in range(len(prompts))]

    def _prefills(
        self, slots: list[int], admitted: list[GroupedPrompt], prompts: Sequence[Sequence[int]]
    ) -> list[Prefill]:
        """Which part of each prompt must be read; the first of a group holds the shared prefix for the others."""
        holders: dict[int, int] = {}
        out = []
        for slot, prompt in zip(slots, admitted, strict=True):
            start = prompt.shared if prompt.group in holders else 0
            if self.kept_prefix is not None and self.kept_prefix[0] == prompt.group and prompt.group not in holders:
                self.cache.restore(slot, self.kept_prefix[1])
                start = prompt.shared
            out.append(Prefill(prompts[prompt.index], slot, start, holders.setdefault(prompt.group, slot)))
        return out

    def _keep_prefix(self, prefill: Prefill, prompt: GroupedPrompt, waiting: deque[GroupedPrompt]) -> None:
        """Keep a copy of the last prompt's shared prefix if others of its group wait: its slot may be reused before."""
        if waiting and waiting[0].group == prompt.group:
            self.kept_prefix = prompt.group, self.cache.copy_prefix(prefill.holder, prompt.shared)
        else:
            self.kept_prefix = None

    def _admit(self, prefills: list[Prefill], limits: list[int], seeds: list[int]) -> None:
        """Prefill prompts into their slots and draw the first token of each."""
        slots = torch.tensor([r.slot for r in prefills], device=self.device)
        self.uniforms[slots] = uniform_table(seeds, self.new_tokens).to(self.device)
        self.limits[slots] = torch.tensor(limits, device=self.device)
        self.lengths[slots] = torch.tensor([len(r.ids) for r in prefills], device=self.device)
        self.written[slots] = 0
        self.live[slots], self.ended[slots] = True, False
        for part in passes(prefills, _PREFILL_TOKENS, _KEYS_PER_TOKEN):
            self._draw(torch.tensor([r.slot for r in part], device=self.device), self._prefill(part))

    def _prefill(self, prefills: list[Prefill]) -> Tensor:
        """Run prompts in one packed pass that fills the cache; returns the last hidden state of each, [B, D]."""
        slots, starts, whole = [r.slot for r in prefills], [r.start for r in prefills], [len(r.ids) for r in prefills]
        lengths = [n - start for n, start in zip(whole, starts, strict=True)]
        ids = torch.tensor([t for r in prefills for t in r.ids[r.start :]], device=self.device)[None]
        positions = torch.cat([torch.arange(r.start, len(r.ids)) for r in prefills]).to(self.device)
        keys = sources = None
        if any(starts):
            keys = Packing.of(whole, self.device)
            places = torch.cat([torch.arange(n) for n in whole])
            rows, holders = _repeat_each(slots, whole), _repeat_each([r.holder for r in prefills], whole)
            holders = torch.where(places < _repeat_each(starts, whole), holders, rows)
            sources = Sources(holders.to(self.device), rows.to(self.device), places.to(self.device))
        packing = Packing.of(lengths, self.device, keys)
        self.cache.begin_prefill(_repeat_each(slots, lengths).to(self.device), positions, max(whole), sources)
        out = self.decoder(
            input_ids=ids, position_ids=positions[None], past_key_values=self.cache, use_cache=True, packing=packing
        )
        self.read_tokens += sum(lengths)
        self.shared_tokens += sum(starts)
        return out.last_hidden_state[0, packing.cu_seqlens[1:].long() - 1]

    def _step(self) -> None:
        """Feed each row's last token and draw its next one, without reading anything back from the device on CUDA."""
        rows, lengths = self.all_slots[: self.active], self.lengths[: self.active]
        seen = torch.where(self.live[: self.active], lengths + 1, 1)  # ended rows attend to 1 position
        # The CUDA graph needs a fixed shape; on other devices attention only covers the longest row.
        used = self.size if self.device.type == "cuda" else int(seen.max())
        self.cache.begin_decode(rows, lengths, used)
        if self.fused is not None:
            hidden = self.fused(self.last[: self.active], lengths, seen)
        else:
            with exchanged(self.rotary):
                out = self.decoder(
                    input_ids=self.last[: self.active, None],
                    position_ids=lengths[:, None],
                    past_key_values=self.cache,
                    use_cache=True,
                    decoding=Decoding(seen),
                )
            hidden = out.last_hidden_state[:, 0]
        lengths += self.live[: self.active]
        self._draw(rows, hidden)

    def _draw(self, rows: Tensor, hidden: Tensor) -> None:
        """Draw the next token of each of `rows` [B] from last hidden states [B, D], store it, and mark ended rows."""
        if self.kernels and self.temperature > 0.0 and self.top_p >= 1.0 and hidden.dtype != torch.float64:
            from tutelage.sampling.draw_kernels import draw_and_note

            logits = chunk_logits(hidden, language_model_head(self.model))
            draw_and_note(logits, self, rows, self.ends, self.temperature)
            return
        live, written = self.live[rows], self.written[rows]
        uniforms = self.uniforms[rows, written.clamp(max=self.new_tokens - 1)]
        chosen, logprob = choose(hidden, language_model_head(self.model), uniforms, self.temperature, self.top_p)
        column = torch.where(live, written, self.new_tokens)
        self.tokens[rows, column] = chosen
        self.logprobs[rows, column] = logprob
        written = written + live
        at_end = torch.isin(chosen, self.ends) & live
        self.last[rows], self.written[rows] = chosen, written
        self.ended[rows] = self.ended[rows] | at_end
        self.live[rows] = live & ~at_end & (written < self.limits[rows])

    def _advance(self) -> None:
        """One step; on CUDA several, since each check for ended rows waits for the device."""
        if self.graph is None:
            if bool(self.live[: self.active].any()):
                self._step()
            return
        for _ in range(_STEPS_PER_CHECK):
            self.graph.replay()

    def _collect(self, owner: dict[int, int]) -> dict[int, Sample]:
        """The samples of the rows that have ended since the last check, by index of the prompt."""
        live = self.live.tolist()
        ended_slots = [slot for slot in owner if not live[slot]]
        if not ended_slots:
            return {}
        slots = torch.tensor(ended_slots, device=self.device)
        columns = (x[slots].tolist() for x in (self.tokens, self.logprobs, self.written, self.ended))
        rows = zip(ended_slots, *columns, strict=True)
        return {owner[slot]: Sample(tuple(t[:n]), tuple(p[:n]), at_end) for slot, t, p, n, at_end in rows}

    def _compact(self, owner: dict[int, int]) -> dict[int, int]:
        """Move the live rows to the front once that saves an eighth of the step; returns the slots' new owners."""
        if self.active - len(owner) < max(1, self.active // 8):
            return owner
        keep = sorted(owner)
        self.cache.compact(torch.tensor(keep, device=self.device))
        state = (self.live, self.ended, self.lengths, self.written, self.limits, self.last)
        for tensor in (*state, self.uniforms, self.tokens, self.logprobs):
            tensor[: len(keep)] = tensor[keep]
        self.live[len(keep) :] = False
        self.active = len(keep)
        return {place: owner[slot] for place, slot in enumerate(keep)}

    @torch.no_grad()
    def _try_kernels(self) -> None:
        """Use the kernels of this folder from now on if a step with them runs; it changes no result: no row is live."""
        try:
            self.kernels = self.cache.kernels = True
            self.rotary = fused_rotary(self.decoder)
            self._step()
            from tutelage.sampling.fused_step import FusedStep, takes  # needs triton

            if takes(self.decoder):
                self.fused = FusedStep(self.decoder, self.cache)
                self._step()
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # what a compiler raises has no common class
            self.kernels, self.cache.kernels, self.rotary, self.fused = False, False, [], None
            reason = " ".join(str(error).split())[:160]
            warnings.warn(
                f"the kernels of a decoding step do not run here ({type(error).__name__}: {reason}): it runs without "
                "them, slower",
                stacklevel=3,
            )

    @torch.no_grad()
    def _record_graph(self) -> Any:
        """Record the step as a CUDA graph, while no row is live, so that it changes no result. None if it fails."""
        stream = torch.cuda.Stream(self.device)
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            for _ in range(2):  # compiles kernels and allocates the cache before recording
                self._step()
        torch.cuda.current_stream(self.device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self._step()
        except RuntimeError as error:
            torch.cuda.synchronize(self.device)
            reason = str(error).strip().splitlines()[0]
            warnings.warn(
                f"this model's decoding step cannot be recorded as a CUDA graph ({reason}): it runs without one, "
                "several times slower",
                stacklevel=2,
            )
            return None
        return graph


def _repeat_each(values: list[int], times: list[int]) -> Tensor:
    """values[i] repeated times[i] times, for each i."""
    return torch.tensor(values).repeat_interleave(torch.tensor(times))


def _slots_that_fit(model: Any, slots: int, size: int, share: float) -> int:
    """`slots`, or on CUDA as many (at least 1) as have room for their keys and values in `share` of the free memory."""
    parameter = next(model.parameters())
    if parameter.device.type != "cuda":
        return slots
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    slot_bytes = 2 * config.num_hidden_layers * heads * width * size * parameter.element_size()
    free = torch.cuda.mem_get_info(parameter.device)[0] + (
        torch.cuda.memory_reserved(parameter.device) - torch.cuda.memory_allocated(parameter.device)
    )
    return max(1, min(slots, int(share * free / slot_bytes)))
