"""A teacher that vLLM holds on several GPUs: a `Source` of exact hidden states, for `tutelage serve-teacher`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from tutelage.common.errors import TutelageError
from tutelage.common.types import Head
from tutelage.models.files import locate
from tutelage.models.language_model import language_model_head
from tutelage.models.load import LoadedModel
from tutelage.recipe.sections import ModelConfig
from tutelage.sampling.vllm_files import read_hidden
from tutelage.teachers.protocol import Question


class VllmSource:
    """The model of `vllm_files.load_reader`. vLLM gives the hidden states, the files the output layer."""

    ahead = 0

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded, self.name = loaded, loaded.name
        self._head = head_of_files(loaded)

    def head(self) -> Head:
        """The model's output layer, in CPU memory."""
        return self._head

    def answer(self, question: Question) -> Tensor:
        """Hidden states [N, D] in CPU memory."""
        parts = question.parts()
        ends = [int(part.predict[-1]) + 1 if len(part.predict) else 1 for part in parts]  # no token after it counts
        states = read_hidden(
            self.loaded.engine, [part.ids[:end].tolist() for part, end in zip(parts, ends, strict=True)]
        )
        found = [state[part.predict] for state, part in zip(states, parts, strict=True)]
        return torch.cat(found).to(self._head.weight.dtype)


def head_of_files(loaded: LoadedModel) -> Head:
    """The output layer [V, D] of a model that was loaded without weights, in the type that its engine computes in.

    Raises TutelageError where its files do not name it as transformers does.
    """
    head, layer = language_model_head(loaded.model), loaded.model.get_output_embeddings()
    tensors = {"weight": layer.weight} | ({} if head.bias is None else {"bias": layer.bias})
    names = {key: [n for n, p in loaded.model.named_parameters(remove_duplicate=False) if p is tensor]
             for key, tensor in tensors.items()}  # fmt: skip
    read = {key: _read(loaded.engine.config, wanted).to(loaded.engine.dtype) for key, wanted in names.items()}
    return replace(head, **read)


def _read(config: ModelConfig, names: list[str]) -> Tensor:
    """The first of these tensors that the model's safetensors files hold; a tied one has several names."""
    from safetensors import safe_open

    folder = Path(locate(config)[0])
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download(config.path, revision=config.revision, allow_patterns="*.safetensors"))
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            for name in names:
                if name in opened.keys():  # noqa: SIM118 - it has no __contains__
                    return opened.get_tensor(name)
    wanted = " or ".join(names)
    raise TutelageError(f"`{config.path}`: its files have no tensor {wanted}: serve it without --tensor-parallel")
