"""A teacher in another process or on another machine, behind `tutelage serve-teacher` (`server.py`)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tutelage.common.types import Head
from tutelage.teachers import wire
from tutelage.teachers.patience import PatientClient, Response
from tutelage.teachers.protocol import Question


class ServedSource:
    """Asks a served teacher for hidden states.

    `name`: of the teacher, as the user wrote it; `fingerprint`: of its weights and tokenizer (`model_fingerprint`);
    `precision`: that of its hidden states, `float32` or `bfloat16`; `wait`: seconds that it may be away.

    Raises TutelageError when it is not there, is another teacher, or has another precision.
    """

    ahead = 2  # one answer is computed while another is sent

    def __init__(self, url: str, name: str, fingerprint: str, precision: str, wait: float) -> None:
        self.name, self.fingerprint = name, fingerprint
        command = f"tutelage serve-teacher {name} --precision {precision}"
        self._client = PatientClient(
            "the served teacher", url, wire.TOKEN_VARIABLE, wait, f"start it ({command}), then the same command goes on"
        )
        about = self._about(self._client.ask("GET", "teacher"))
        if about["precision"] != precision:
            raise self._client.failure(
                f"computes in {about['precision']}, and this run's teacher in {precision}: start it with {command}"
            )
        self.dtype, self.width, self.rows = wire.PRECISIONS[precision], int(about["width"]), int(about["rows"])
        self._scale, self._softcap = about["scale"], about["softcap"]

    def head(self) -> Head:
        """The output layer, sent once."""
        sent = self._tensors(self._client.ask("GET", "head"), "weight", [self.rows, self.width])
        return Head(sent["weight"], sent.get("bias"), self._scale, self._softcap)

    def answer(self, question: Question) -> Tensor:
        """Hidden states [N, D] in CPU memory."""
        response = self._client.ask("POST", "signal", wire.pack_question(question), wire.TENSORS)
        return self._tensors(response, "hidden", [len(question.predict), self.width])["hidden"]

    def _about(self, response: Response) -> dict[str, Any]:
        try:
            about = response.json()
        except ValueError:
            about = None
        keys = {"format", "fingerprint", "precision", "width", "rows", "scale", "softcap"}
        if not isinstance(about, dict) or not keys <= about.keys():
            raise self._client.failure("does not answer as `tutelage serve-teacher` does: correct the address")
        if about["format"] != wire.FORMAT:
            raise self._client.failure("is of another version of Tutelage: start it with the one used here")
        self._refuse_other(str(about["fingerprint"]), about.get("name"))
        return about

    def _refuse_other(self, found: str | None, name: str | None = None) -> None:
        if found is not None and found != self.fingerprint:
            served = f" (`{name}`)" if name else ""
            raise self._client.failure(
                f"has other weights or another tokenizer or template{served} than the recipe's teacher `{self.name}` "
                f"({found} and {self.fingerprint}): serve that one (again, if its files changed)"
            )

    def _tensors(self, response: Response, name: str, shape: list[int]) -> dict[str, Tensor]:
        """The tensors of an answer, of which `name` has this shape."""
        if response.kind != wire.TENSORS:
            raise self._client.failure(f"answers with {response.kind[:60]} instead of tensors: correct the address")
        self._refuse_other(response.headers.get(wire.FINGERPRINT_HEADER, "no fingerprint"))
        try:
            sent = wire.unpack(response.body)
        except ValueError as error:
            raise self._client.failure(f"sends a damaged answer: {error}") from None
        found = sent.get(name)
        if found is None or list(found.shape) != shape or found.dtype != self.dtype:
            what = "nothing" if found is None else f"{found.dtype} {list(found.shape)}"
            raise self._client.failure(f"sends {what} as `{name}` where {self.dtype} {shape} is due")
        if not bool(torch.isfinite(found).all()):
            raise self._client.failure(f"gives numbers that are not finite (`{name}`): use another copy of the model")
        return sent
