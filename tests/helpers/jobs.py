"""Tiny training jobs: a word-level tokenizer whose ids fit the models of `tiny`, and a `Job` with both."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import tiny
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tutelage.data.chat_template import ChatTemplate
from tutelage.loss.objective import CrossEntropy, Divergence
from tutelage.models.load import LoadedModel
from tutelage.recipe.sections import SamplingConfig, TrainingConfig
from tutelage.sampling.torch_sampler import TorchSampler
from tutelage.teachers.local import LocalTeacher
from tutelage.training.job import Job
from tutelage.training.on_policy import RolloutPlan

END = 2
ENDS = (2, *range(20, 26))  # many, so that samples of these random models differ much in length


def words(count: int = 97, eos: str = "</s>", **changed: int) -> PreTrainedTokenizerFast:
    """A tokenizer of `count` words; id 0 pads, 1 is unknown, 2 ends a turn. `changed`: other words by id."""
    names = ["<pad>", "<unk>", "</s>", *(f"w{i}" for i in range(3, count))]
    for name, place in changed.items():
        names[place] = name
    inner = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=eos, pad_token="<pad>", unk_token="<unk>")


def loaded(model: Any, packed: bool = True, eos: str = "</s>") -> LoadedModel:
    tokenizer = words(model.config.vocab_size, eos)
    return LoadedModel(model, tokenizer, ChatTemplate(tokenizer), packed, "tiny")


def sft(folder: Path, lengths: Any = (9, 6, 14, 7, 30), model: Any = None, device: str = "cpu", **config: Any) -> Job:
    """Cross-entropy on random sequences. `config` are training keys."""
    student = loaded(model or tiny.llama().to(device))
    options = {"batch_size": 4, "epochs": 1, "learning_rate": 1e-3, "checkpoint_every": 2, "max_length": 64} | config
    return Job(
        student=student,
        teacher=None,
        objective=CrossEntropy(),
        examples=tiny.sequences(lengths),
        validation=(),
        rollouts=None,
        sampler=None,
        config=TrainingConfig(**options),
        seed=3,
        folder=folder,
        fingerprint="one",
    )


def gkd(
    folder: Path,
    on_policy: float = 0.5,
    lengths: Any = (9, 6, 14, 7, 30),
    packed: bool = True,
    device: str = "cpu",
    **more: Any,
) -> Job:
    """JSD from a larger teacher on a mixture of data and the student's own samples of 1 to 40 tokens."""
    model = more.pop("model", None) or (tiny.llama() if packed else tiny.gemma2()).to(device)
    own = tiny.llama(layers=3, hidden=48, seed=1) if packed else tiny.gemma2(seed=1)
    teacher = more.pop("teacher", None) or own.to(device)
    temperature, ce_weight = more.pop("temperature", 1.0), more.pop("ce_weight", 0.0)
    job = sft(folder, lengths, model, **more)
    student = loaded(model, packed)
    sampling = SamplingConfig(max_new_tokens=40)
    return dataclasses.replace(
        job,
        student=student,
        teacher=LocalTeacher(loaded(teacher, packed)),
        objective=Divergence(0.5, temperature),
        ce_weight=ce_weight,
        rollouts=RolloutPlan(on_policy, sampling, job.seed, job.config.max_length),
        sampler=TorchSampler(model, ENDS, packed, 128),
    )
