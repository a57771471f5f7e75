"""The data that the packages exchange, as frozen dataclasses. This module imports only torch.

Legend of shapes in the whole code base:
  N  predicted tokens of a micro-batch (the positions whose next token carries loss)
  T  tokens of a packed micro-batch, L tokens of one sequence, B rows
  D  hidden size (student and teacher have their own), V vocabulary size
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

Role = Literal["system", "user", "assistant", "tool"]
Author = Literal["data", "student", "teacher"]


@dataclass(frozen=True)
class Message:
    """A turn of a conversation."""

    role: Role
    content: str
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)  # other keys, for the template: tool_calls, …
    tools: tuple[Any, ...] = field(default=(), hash=False)  # on the first turn: JSON schemas of the tools on offer
    train: bool = True  # an assistant turn carries loss


@dataclass(frozen=True)
class Conversation:
    """One row of data. `messages` ends in an assistant turn unless the row is a bare prompt.

    Plain text is a single assistant turn, which no chat template renders.
    """

    id: str  # the row's own id, or "<file name>:<line>"
    messages: tuple[Message, ...]
    references: tuple[str, ...] = ()  # for scoring; empty: the last assistant turn is the only reference
    source: str = ""  # where the row is, "file:line" or "hub-name:index"; for error messages
    remarks: tuple[str, ...] = ()  # in words: columns that nothing reads, cells that leave a gap in a template

    @property
    def plain(self) -> bool:
        """Whether this is plain text: no chat, loss on every token."""
        return len(self.messages) == 1 and self.messages[0].role == "assistant"

    @property
    def prompt(self) -> tuple[Message, ...]:
        """Everything before the last assistant turn."""
        if self.messages and self.messages[-1].role == "assistant":
            return self.messages[:-1]
        return self.messages

    @property
    def response(self) -> str | None:
        """The last assistant turn, or None for a bare prompt."""
        if self.messages and self.messages[-1].role == "assistant":
            return self.messages[-1].content
        return None

    @property
    def targets(self) -> tuple[str, ...]:
        """The reference texts for scoring an answer: `references`, else the response."""
        if self.references:
            return self.references
        return () if self.response is None else (self.response,)


@dataclass(frozen=True)
class TokenSequence:
    """A tokenised conversation, made by `data/chat_template.py` (data) or `training/on_policy.py` (samples)."""

    index: int  # position of the row in its data set
    ids: Tensor  # int64 [L]
    loss_mask: Tensor  # bool [L]; True for response tokens; the position before such a token predicts it
    prompt_length: int  # tokens before the last assistant turn's first token: the prompt for a sampler
    author: Author = "data"
    cut: bool = False  # the response reached the length limit
    weight: float = 1.0  # counts as this many copies (SeqKD stores equal samples once)
    # If the teacher has another chat template: the token ids before each response in the teacher's rendering.
    teacher_prompts: tuple[Tensor, ...] | None = None
    turns: tuple[int, ...] = ()  # which messages of the row carry loss here, by their position
    part: int = 0  # number of the sequence among those of its row (`data/chat_template.py`)

    @property
    def response_tokens(self) -> int:
        return int(self.loss_mask[1:].sum())


@dataclass(frozen=True)
class Sample:
    """A sampler's response to one prompt."""

    tokens: tuple[int, ...]  # with the end-of-turn token if `finished`
    # log-probability of each token under softmax(logits / temperature), before top-p; vLLM returns them only on request
    logprobs: tuple[float, ...]
    finished: bool  # ended by an end-of-turn token, not by the length limit


@dataclass(frozen=True)
class Head:
    """The last linear map of a language model: logits = softcap(scale · (hidden @ weight.T + bias)).

    `softcap(z) = cap · tanh(z / cap)` (Gemma 2); None leaves z as it is.
    """

    weight: Tensor  # [V, D]
    bias: Tensor | None = None  # [V]
    scale: float = 1.0
    softcap: float | None = None


@dataclass(frozen=True)
class MicroBatch:
    """Sequences laid out for one forward pass. Labels are shifted here and nowhere else.

    Packed: `input_ids` is [1, T] without padding, `cu_seqlens` marks the sequences. Padded: [B, L] with a mask.
    `predict` indexes the flattened tokens; hidden state `predict[n]` predicts `labels[n]`.
    """

    input_ids: Tensor  # int64 [1, T] or [B, L]
    position_ids: Tensor  # shape of input_ids
    predict: Tensor  # int64 [N]
    labels: Tensor  # int64 [N]
    weights: Tensor  # float32 [N]; each token's share of the optimizer batch's loss
    rows: Tensor  # int64 [N]; which sequence of the micro-batch a token belongs to
    indices: tuple[int, ...]  # rows of the sequences in their data set, for messages
    lengths: tuple[int, ...]  # tokens of each sequence, without padding
    max_seqlen: int
    cu_seqlens: Tensor | None = None  # int32 [number of sequences + 1], packed only
    attention_mask: Tensor | None = None  # int64 [B, L]
    sampled: bool = False  # some response is the student's
    teacher: MicroBatch | None = None  # the same responses after the teacher's own prompts; None: equal to this batch
    host: MicroBatch | None = None  # of a copy on another device: this batch in CPU memory

    def to(self, device: torch.device) -> MicroBatch:
        """A copy with all tensors on `device`."""
        ahead = device.type != "cpu"  # the host would read a copy that is still being written
        moved: dict[str, Any] = {
            k: v.to(device, non_blocking=ahead) if isinstance(v, Tensor) else v for k, v in vars(self).items()
        }
        if self.teacher is not None:
            moved["teacher"] = self.teacher.to(device)
        moved["host"] = self.host or self
        return MicroBatch(**moved)


@dataclass(frozen=True)
class TeacherSignal:
    """The teacher's last hidden states of a micro-batch's predicted tokens, and its head.

    Logits are never computed for a whole micro-batch at once; `loss/` computes them chunk by chunk.
    """

    hidden: Tensor  # [N, D_teacher]
    head: Head


@dataclass(frozen=True)
class TopLogprobs:
    """A teacher's likeliest tokens at a micro-batch's predicted tokens, at temperature 1: an approximate signal."""

    ids: Tensor  # int64 [N, k], from the likeliest on; −1 where there are fewer than k
    logprobs: Tensor  # float32 [N, k]
    tail: Tensor  # float32 [N]: log of the probability of all other tokens together


Signal = TeacherSignal | TopLogprobs


@dataclass(frozen=True)
class TokenStats:
    """Per-token values of one micro-batch, detached, float32 [N]; the divergences are in nats."""

    loss: Tensor
    cross_entropy: Tensor
    forward_kl: Tensor | None = None  # KL(teacher || student)
    reverse_kl: Tensor | None = None  # KL(student || teacher)
    student_entropy: Tensor | None = None
    teacher_entropy: Tensor | None = None
    agreement: Tensor | None = None  # 1.0 where both models' most likely token is the same
    error_bound: Tensor | None = None  # of a loss from TopLogprobs: how much larger the exact one can be
