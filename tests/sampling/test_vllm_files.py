"""A model that vLLM holds in its files, against a fake vLLM that decodes and reads those files with transformers."""

from __future__ import annotations

import json
import os
import sys
import types
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from recipes_fixture import Workshop

from tutelage.common.errors import TutelageError
from tutelage.models.load import load_model
from tutelage.recipe.load import load_recipe
from tutelage.recipe.sections import ModelConfig, SamplingConfig
from tutelage.recipe.stages import SeqkdStage
from tutelage.runs import planner
from tutelage.runs.do_run import do_run
from tutelage.runs.planner import Planner
from tutelage.runs.run import Run
from tutelage.sampling.make_sampler import load_to_write, make_sampler
from tutelage.sampling.torch_sampler import TorchSampler
from tutelage.sampling.vllm_files import load_writer
from tutelage.teachers.local import LocalSource
from tutelage.teachers.protocol import Question
from tutelage.teachers.server import load_server

PROMPTS = [[5, 9, 11], [7], [3, 4, 5, 6, 7, 8, 9]]


class FakeLLM:
    """Weights from the files, in float32. It refuses what vLLM itself does not start with, or would wait for forever
    (see `test_vllm_itself.py`)."""

    made: ClassVar[list[FakeLLM]] = []

    def __init__(self, model: str, **options: Any) -> None:
        if options.get("runner") == "pooling" and (options.get("skip_tokenizer_init") or not options.get("tokenizer")):
            raise ValueError("Tokenizer not available when `skip_tokenizer_init=True`")
        self.options, self.loaded = options, load_model(ModelConfig(path=model))
        FakeLLM.made.append(self)

    def generate(self, prompts: list[Any], settings: list[Any], use_tqdm: bool) -> list[Any]:
        return [self._one(p["prompt_token_ids"], s) for p, s in zip(prompts, settings, strict=True)]

    def _one(self, ids: list[int], asked: Any) -> Any:
        plain = TorchSampler(self.loaded.model, getattr(asked, "stop_token_ids", ()), True)
        if getattr(asked, "prompt_logprobs", None) is not None:
            (scores,) = plain.score([ids[:1]], [ids[1:]])
            pairs = zip(ids[1:], scores.tolist(), strict=True)
            known = [{token: types.SimpleNamespace(logprob=value), -1: None} for token, value in pairs]
            return types.SimpleNamespace(prompt_logprobs=[None, *known], outputs=[])
        options = {"max_new_tokens": asked.max_tokens, "temperature": asked.temperature, "top_p": asked.top_p}
        (sample,) = plain.sample([ids], **options, seeds=[asked.seed])
        reason = "stop" if sample.finished else "length"
        answer = types.SimpleNamespace(token_ids=list(sample.tokens), logprobs=None, finish_reason=reason)
        return types.SimpleNamespace(outputs=[answer])

    def encode(self, prompts: list[Any], *, pooling_params: Any, pooling_task: str, use_tqdm: bool) -> list[Any]:
        assert (pooling_params.use_activation, pooling_task) == (False, "token_embed")
        out = []
        for prompt in prompts:
            assert 0 < len(prompt["prompt_token_ids"]) < self.options["max_model_len"]
            ids = torch.tensor(prompt["prompt_token_ids"])
            asked = Question(torch.cat([ids, ids[:1]]), (len(ids) + 1,), torch.arange(len(ids)))
            data = LocalSource(self.loaded).answer(asked)
            out.append(types.SimpleNamespace(outputs=types.SimpleNamespace(data=data)))
        return out


@pytest.fixture(autouse=True)
def vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four GPUs and the fake."""
    module, config = types.ModuleType("vllm"), types.ModuleType("vllm.config")
    simple = lambda **options: types.SimpleNamespace(**options)  # noqa: E731
    module.LLM, module.SamplingParams, module.PoolingParams = FakeLLM, simple, simple  # type: ignore[attr-defined]
    config.PoolerConfig = simple  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setitem(sys.modules, "vllm.config", config)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    FakeLLM.made.clear()


@pytest.fixture
def teacher(tiny_models: Path) -> ModelConfig:
    return ModelConfig(path=str(tiny_models / "teacher"), tensor_parallel=2)


@pytest.mark.slow
def test_it_writes_and_scores_as_the_model_in_this_process(teacher: ModelConfig):
    loaded, plain = load_to_write(teacher, "cpu", 1), load_model(teacher)
    assert loaded.fingerprint == plain.fingerprint
    assert {p.device.type for p in loaded.model.parameters()} == {"meta"}
    sampler, own = make_sampler(loaded, SamplingConfig()), make_sampler(plain, SamplingConfig())
    prompts, seeds, seen = PROMPTS * 7, list(range(21)), {}  # 21 rows: more than 16 at a time
    asked = {"max_new_tokens": 8, "temperature": 1.0, "top_p": 0.9, "seeds": seeds}
    samples = sampler.sample(prompts, **asked, ended=seen.update)
    assert [s.tokens for s in samples] == [s.tokens for s in own.sample(prompts, **asked)]
    assert seen == dict(enumerate(samples))
    for mine, theirs in zip(sampler.score(PROMPTS, PROMPTS), own.score(PROMPTS, PROMPTS), strict=True):
        torch.testing.assert_close(mine, theirs)
    (engine,) = FakeLLM.made
    assert engine.options == {
        "revision": None, "trust_remote_code": False, "skip_tokenizer_init": True, "tensor_parallel_size": 2,
        "gpu_memory_utilization": 0.9, "disable_log_stats": True, "dtype": "bfloat16", "max_num_seqs": 1,
        "max_model_len": 512, "logprobs_mode": "raw_logprobs",
    }  # fmt: skip
    with pytest.raises(TutelageError, match="has token 99999, and the embedding of"):
        sampler.sample([[99_999]], max_new_tokens=1, seeds=[0], temperature=0.0, top_p=1.0)


def test_a_served_teacher_answers_with_the_models_own_states(teacher: ModelConfig):
    server = load_server(teacher, "cuda", "float32", 64)
    question = Question(torch.tensor([5, 9, 11, 7, 3, 4]), (4, 2), torch.tensor([1, 2, 4]))
    local = LocalSource(load_model(teacher))
    torch.testing.assert_close(server.source.answer(question), local.answer(question))
    for name in ("weight", "scale", "softcap"):
        mine, theirs = (getattr(source.head(), name) for source in (server.source, local))
        torch.testing.assert_close(mine, theirs)
    whole = torch.randint(3, 90, (512,), generator=torch.Generator().manual_seed(0))  # no token predicts after its last
    full = Question(torch.cat([whole, whole[:3]]), (512, 3), torch.arange(511))
    torch.testing.assert_close(server.source.answer(full), local.answer(full))
    with pytest.raises(ValueError, match="hidden states of 512 tokens, and vLLM gives those of 511"):
        server.source.answer(Question(whole, (512,), torch.arange(512)))
    options = FakeLLM.made[0].options
    assert (options["enforce_eager"], options["tokenizer"]) == (True, teacher.path)
    assert (options["runner"], options["convert"], options["pooler_config"].task) == ("pooling", "embed", "token_embed")
    assert (options["dtype"], options["max_num_batched_tokens"], options["tensor_parallel_size"]) == ("float32", 512, 2)


def test_what_it_cannot_do_is_one_line(
    teacher: ModelConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(TutelageError, match="tensor_parallel: 8 needs 8 GPUs, and torch sees 4 here"):
        load_to_write(teacher.model_copy(update={"tensor_parallel": 8}), "cuda", 1)
    monkeypatch.setenv("RAY_ADDRESS", "auto")  # then over the hosts of the cluster
    load_to_write(teacher.model_copy(update={"tensor_parallel": 8}), "cuda", 1)
    assert FakeLLM.made[-1].options["distributed_executor_backend"] == "ray"
    monkeypatch.setattr(FakeLLM, "__init__", lambda self, model, **options: (_ for _ in ()).throw(ValueError("a\nb")))
    with pytest.raises(TutelageError, match=r"vLLM cannot hold `.*teacher` on 2 GPUs: a$"):
        load_to_write(teacher, "cuda", 1)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)  # one engine then runs on the CPU, if vLLM can
    monkeypatch.delenv("RAY_ADDRESS")
    with pytest.raises(TutelageError, match="tensor_parallel: 2 needs 2 GPUs, and torch sees 0 here"):
        load_to_write(teacher, "cpu", 1)
    with pytest.raises(TutelageError, match=r"vLLM cannot hold `.*teacher` on the CPU: a$"):
        load_writer(teacher.model_copy(update={"tensor_parallel": None}), 1, 0.9)
    assert (os.environ["VLLM_LOGGING_STREAM"], capsys.readouterr().out) == ("ext://sys.stderr", "")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(TutelageError, match=r"pip install 'tutelage\[vllm\]'"):
        load_to_write(teacher, "cuda", 1)
    with pytest.raises(ValueError, match="give one of the two"):
        ModelConfig(path="x", precision="float8", tensor_parallel=2)


def on_gpus(run: Run) -> Run:
    """The run as planned for GPUs, on the CPU."""
    return Run(**{**vars(run), "device": "cpu"})


@pytest.mark.slow
def test_answers_synthesis_and_tasks_are_written_by_it(workshop: Workshop, monkeypatch: pytest.MonkeyPatch):
    """The teacher and what is trained from it, on as many GPUs as its section says; students on one."""
    monkeypatch.setattr(planner, "resolve_device", lambda wanted: "cuda")
    new = {"name": "new", "kind": "synthesize", "gold": "train", "rows": 2, "demonstrations": 1}
    new |= {"form": "continuation", "min_acceptance": 0.9}
    new |= {part: {"max_new_tokens": 24, "batch_size": 4} for part in ("inputs", "answers")}
    seqkd = {"name": "seqkd", "kind": "seqkd", "data": "train", "samples_per_prompt": 2}
    taught = {"name": "taught", "kind": "sft", "student": "teacher", "data": "train"}
    gkd = {"name": "gkd", "kind": "distill", "student": "base", "data": "train", "teacher": "taught"}
    stages = [seqkd | {"student": "base", "sampling": {"max_new_tokens": 4}}, new, taught, gkd]

    def planned(parallel: int) -> Planner:
        file = workshop.write(stages=stages, device="auto", teacher__tensor_parallel=parallel)
        return Planner(load_recipe(file), workshop.folder, workshop.runs)

    plan, one, four = planned(2), planned(1), planned(4)
    answers = plan.stage_run("seqkd", 0).parents[0]
    scored = plan.evaluation("teacher", "test", 0)
    made = plan.stage_run("new", 0)
    assert [r.models[role].tensor_parallel for r, role in ((answers, "teacher"), (scored, "model"))] == [2, 2]
    assert isinstance(answers.config, SeqkdStage)
    # One engine or another counts; how many GPUs, and where the teacher is only read, does not.
    for stage in ("seqkd", "new"):
        first, second, third = (p.stage_run(stage, 0).fingerprint for p in (plan, four, one))
        assert first == second != third
    assert plan.stage_run("gkd", 0).fingerprint == one.stage_run("gkd", 0).fingerprint
    assert plan.stage_run("gkd", 0).models["teacher"].tensor_parallel is None
    assert plan.evaluation("taught", "test", 0).models["model"].tensor_parallel == 2
    assert plan.evaluation("gkd", "test", 0).models["model"].tensor_parallel is None
    assert plan.evaluation("gkd", "test", 0).fingerprint == one.evaluation("gkd", "test", 0).fingerprint
    for run in (answers, scored):
        do_run(on_gpus(run))
    with pytest.raises(TutelageError, match="attempts were accepted"):  # a tiny model writes no text
        do_run(on_gpus(made))
    assert [engine.options["tensor_parallel_size"] for engine in FakeLLM.made] == [2, 2, 2]
    assert json.loads((made.folder / "config.json").read_text())["models"]["generator"]["path"].endswith("teacher")
