"""What a served teacher and its students send each other: safetensors bodies, and JSON about the teacher.

    GET  teacher   {"format", "name", "fingerprint", "precision", "width", "rows", "scale", "softcap"}
    GET  head      {"weight" [V, D], "bias" [V] if there is one}, in the teacher's precision
    POST signal    {"ids" int32 [T], "lengths" int32 [sequences], "predict" int32 [N]} → {"hidden" [N, D]}

Every answer names the teacher's fingerprint in a header, so that another one started at the same address is noticed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tutelage.teachers.protocol import Question

FORMAT = 1
TOKEN_VARIABLE = "TUTELAGE_TEACHER_TOKEN"  # the environment variable with the token that a request must carry
FINGERPRINT_HEADER = "X-Tutelage-Teacher"
TENSORS = "application/x-safetensors"  # the content type
PORT = 8700
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def pack(**tensors: Tensor) -> bytes:
    """The body with these tensors."""
    from safetensors.torch import save

    return save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})


def unpack(body: bytes) -> dict[str, Tensor]:
    """The tensors of a body. Raises ValueError for one that is cut or is something else."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(body)
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"no tensors in a body of {len(body)} bytes ({error})") from None


def pack_question(question: Question) -> bytes:
    """The body that asks a question."""
    lengths = torch.tensor(question.lengths, dtype=torch.int32)
    return pack(ids=question.ids.to(torch.int32), lengths=lengths, predict=question.predict.to(torch.int32))


def unpack_question(body: bytes, rows: int, context: int | None) -> Question:
    """The question of a body to a teacher that knows `rows` token ids and reads `context` tokens.

    Raises ValueError, one line, for a question that it cannot answer.
    """
    sent = unpack(body)
    if set(sent) != {"ids", "lengths", "predict"} or any(t.dtype != torch.int32 or t.ndim != 1 for t in sent.values()):
        raise ValueError("a question has int32 vectors `ids`, `lengths` and `predict`")
    ids, lengths, predict = (sent[name].long() for name in ("ids", "lengths", "predict"))
    if len(lengths) == 0 or bool((lengths < 1).any()) or int(lengths.sum()) != len(ids):
        raise ValueError("`lengths` are not those of the sequences in `ids`")
    if bool((ids < 0).any()) or int(ids.max()) >= rows:
        raise ValueError(f"a token id is not in [0, {rows}): the student has tokens that the teacher does not know")
    if context is not None and int(lengths.max()) > context:
        raise ValueError(f"a sequence of {int(lengths.max())} tokens, and the teacher reads {context}")
    last = torch.zeros(len(ids), dtype=torch.bool)
    last[lengths.cumsum(0) - 1] = True
    if len(predict) == 0 or bool((predict[1:] <= predict[:-1]).any()) or int(predict[0]) < 0:
        raise ValueError("`predict` is empty or not ascending")
    if int(predict[-1]) >= len(ids) or bool(last[predict].any()):
        raise ValueError("a position of `predict` has no next token")
    return Question(ids, tuple(lengths.tolist()), predict)
