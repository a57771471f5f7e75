"""The memory of each kind of run, against arithmetic of its own: bytes counted from what the code of the kind loads."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from cost_runs import B1, B8, B70, STAGES, W1, W8, W70, cost, model_of, parts, run_of

from tutelage.recipe.sections import (
    AnswerSamplingConfig,
    ModelConfig,
    SamplingConfig,
    TaskConfig,
    TrainingConfig,
)
from tutelage.recipe.stages import (
    DistillStage,
    SeqkdStage,
    SignalConfig,
)
from tutelage.recipe.study import BenchmarkTask
from tutelage.runs.cost.cost_model import START_SECONDS
from tutelage.runs.cost.disk import disk_of, disk_of_all
from tutelage.runs.cost.facts import Shape, facts, machine
from tutelage.runs.cost.memory import GIB
from tutelage.runs.cost.network import exchange_seconds
from tutelage.runs.kinds import cost_of
from tutelage.runs.preflight import blocked, misfits
from tutelage.runs.preflight.machine import disk_text
from tutelage.runs.run import Run
from tutelage.runs.scheduler import Resources


def test_synthesis_holds_generator_and_annotator_together():
    both = parts(run_of("synthesize", generator=B70, annotator=B8))
    assert both["generator"] + both["annotator"] == 2 * (W70 + W8)
    one = parts(run_of("synthesize", generator=B8, annotator=B8))
    assert "annotator" not in one
    assert one["generator"] == 2 * W8
    # Two samplers, each with a cache: 8 rows of 768 positions (300 shown + 312 new) and of 512, 128 KiB per position.
    assert one["caches"] == 8 * (768 + 512) * 131_072
    assert one["activations"] == (4 * 4096 + 6 * 14336) * 8 * 300  # of the longer prompts


@pytest.mark.parametrize("kind", ["answers", "evaluate"])
def test_what_one_sampler_holds(kind: str):
    role = "teacher" if kind == "answers" else "model"
    found = parts(run_of(kind, **{role: B8}))
    assert found[role] == 2 * W8
    assert found["caches"] == 8 * 512 * 131_072
    assert sum(found.values()) == 2 * W8 + 8 * 512 * 131_072 + (4 * 4096 + 6 * 14336) * 8 * 200 + 1.5 * GIB


def test_a_benchmark_caches_its_longest_reply_and_holds_no_judge():
    found = parts(run_of("benchmark", config=BenchmarkTask(benchmark="infobench", batch_size=8), model=B8))
    assert found["caches"] == 8 * 1280 * 131_072  # 60 + 1,024 new tokens, in steps of 256
    assert sorted(found) == ["activations", "base", "caches", "model"]


def test_caches_take_a_share_of_the_free_memory_at_most():
    """As `sampling.engine._slots_that_fit`: half of it, at least one row; fewer rows at a time take longer."""
    large = AnswerSamplingConfig(max_new_tokens=1848, batch_size=10_000)  # 2,048 positions
    task = run_of("evaluate", config=TaskConfig(data="rows", sampling=large), model=B8)
    row, free = 2048 * 131_072, 79 * GIB - 2 * W8 - 1.5 * GIB
    assert parts(task, "H100")["caches"] == int(0.5 * free / row) * row
    tight = run_of("evaluate", model=B70)
    assert parts(tight, "H100")["caches"] == 512 * 327_680  # one row, though there is no room at all
    roomy = cost_of(tight, model_of(replace(machine("H100"), memory=178.0)))
    assert roomy is not None
    assert roomy.hours < cost(tight, "H100").hours / 7  # 8 rows at a time, and one


def test_held_out_holds_the_teacher_too():
    alone, both = parts(run_of("held_out", model=B1)), parts(run_of("held_out", model=B1, teacher=B70))
    assert (alone["model"], both["model"], both["teacher"]) == (2 * W1, 2 * W1, 2 * W70)
    assert both["activations"] == (4 * 8192 + 6 * 28672 + 2 * 8192) * 1000  # a pass of the wider one, and what it gives


def test_prune_has_float32_weights_and_copies_in_bfloat16():
    found = parts(run_of("prune", model=B8))
    assert (found["model"], found["copies in bfloat16"]) == (4 * W8, 2 * W8)


@pytest.mark.parametrize(
    ("settings", "per_weight", "copies", "frozen"),
    [({}, 16, 2, 2), ({"precision": "float32"}, 16, 0, 4), ({"precision": "pure_bfloat16"}, 8, 0, 2)],
)
def test_the_student_with_its_optimizer(settings: dict[str, Any], per_weight: int, copies: int, frozen: int):
    found = parts(run_of("distill", TrainingConfig(**settings), student=B1, teacher=B8), ranks=1)
    assert found["student and optimizer"] == per_weight * W1
    assert found.get("copies in bfloat16", 0.0) == copies * W1
    assert found["teacher"] == frozen * W8
    assert "student to sample from" not in found  # its copies to compute with are what is sampled from
    assert parts(run_of("sft", TrainingConfig(**settings), student=B70), ranks=1)["student and optimizer"] == (
        per_weight * W70
    )


@pytest.mark.parametrize(("optimizer", "per_weight"), [("adamw_8bit", 10), ("adamw_offload", 8)])
def test_moments_elsewhere(optimizer: str, per_weight: int):
    training = TrainingConfig.model_validate({"optimizer": optimizer})
    assert parts(run_of("sft", training, student=B8), ranks=1)["student and optimizer"] == per_weight * W8


def test_a_checkpoint_of_shared_eight_bit_moments_has_them_in_float32():
    """8 bytes per weight come when the gradients' 4, gathered layers and activations have gone."""
    training = TrainingConfig(optimizer="adamw_8bit", shard=True, gradient_checkpointing=True)
    found = parts(run_of("sft", training, student=B70), ranks=8)
    at_checkpoint = (4 + 2 + 8) * W70 / 8 + found["base"]
    assert sum(found.values()) == pytest.approx(at_checkpoint)
    for ranks in (1, 64):  # not shared; and the gathered layers were more
        assert not parts(run_of("sft", training, student=B70), ranks=ranks).get("checkpoint")


def test_moments_elsewhere_are_named_where_they_would_fit():
    run = run_of(
        "sft", TrainingConfig(shard=True, gradient_checkpointing=True, tokens_per_micro_batch=2048), student=B70
    )
    assert fixes(run, "8xH200", 8)[0][1].endswith(", or training.optimizer: adamw_8bit or adamw_offload")
    assert "optimizer" not in fixes(run, "8xH100", 8)[0][1]


def test_activations_are_recomputed_where_memory_asks_for_it():
    """An 8B student takes 18 bytes per weight, 135 GiB; of an H200's 139 too few are left for 8,192 tokens."""
    training = {name: TrainingConfig(gradient_checkpointing=on) for name, on in (("on", True), ("off", False))}
    of = {name: cost(run_of("sft", one, student=B8), "H200", 1) for name, one in training.items()}
    auto = TrainingConfig(gradient_checkpointing="auto")
    assert of["off"].memory_gib > machine("H200").memory
    assert cost(run_of("sft", auto, student=B8), "H200", 1) == of["on"]
    small = [cost(run_of("sft", one, student=B1), "H200", 1) for one in (auto, training["off"])]
    assert small[0] == small[1]


@pytest.mark.parametrize("ranks", [1, 2, 8])
def test_only_what_the_ranks_share_is_divided(ranks: int):
    whole = parts(run_of("distill", student=B1, teacher=B8), ranks=ranks)
    shared = parts(run_of("distill", TrainingConfig(shard=True), student=B1, teacher=B8), ranks=ranks)
    assert (whole["student and optimizer"], whole["teacher"]) == (16 * W1, 2 * W8)
    assert (shared["student and optimizer"], shared["teacher"]) == (16 * W1 / ranks, 2 * W8 / ranks)
    assert shared["caches"] == whole["caches"]
    assert shared.get("student to sample from", 0.0) == (2 * W1 if ranks > 1 else 0)
    assert whole["caches"] == 8 * 512 * 32_768
    if ranks > 1:
        student, teacher = 128_256 * 2048, 2 * 128_256 * 4096  # embedding and head; the student's are one matrix
        layers = (W1 - student - 33 * 2048) / 16 * (2 * 2 + 2 + 4) + (W8 - teacher - 65 * 4096) / 32 * 2 * 2
        gathered = (1 - 1 / ranks) * (4 * student + 2 * teacher) + layers
        assert shared["gathered layers"] == pytest.approx(gathered)


def test_a_seqkd_training_holds_no_teacher():
    names = {"student and optimizer", "copies in bfloat16", "activations", "base"}
    assert set(parts(run_of("seqkd", student=B1), ranks=1)) == names


@pytest.mark.parametrize("kind", STAGES)
@pytest.mark.parametrize("ranks", [1, 8])
def test_a_plan_gives_each_run_the_gpus_of_the_scheduler(kind: str, ranks: int):
    roles = {"held_out": ("model", "teacher"), "synthesize": ("generator", "annotator"), "sft": ("student",)}
    roles |= {"distill": ("student", "teacher"), "seqkd": ("student",), "answers": ("teacher",)}
    run = run_of(kind, **dict.fromkeys(roles.get(kind, ("model",)), B1))
    share = Resources(1, ranks=ranks, gpus=[str(gpu) for gpu in range(8)]).take(run)
    assert cost(run, "8xH200", ranks).gpus == share.ranks == len(share.gpus)


# --- what cannot start ------------------------------------------------------------------------------------------------


def fixes(run: Run, on: str, ranks: int | None = None) -> list[tuple[bool, str]]:
    return [(found.stops, found.fix) for found in misfits([run], model_of(on, ranks))]


def test_what_would_make_it_fit():
    plain, shared = TrainingConfig(), TrainingConfig(shard=True)
    assert fixes(run_of("distill", plain, student=B1, teacher=B8), "8xH200") == []
    distill = run_of("distill", plain, student=B8, teacher=B70)
    assert fixes(distill, "8xH200") == [(True, "set training.shard: true")]
    assert fixes(distill, "8xH200", 1) == [(True, "set training.shard: true and --gpus-per-run 8")]
    (teacher,) = misfits([run_of("sft", shared, student=B70)], model_of("8xH200"))
    assert teacher.fix.startswith("needs ")
    gpus = int(teacher.fix.split()[1])
    assert cost(run_of("sft", shared, student=B70), ranks=gpus).memory_gib <= 139
    assert cost(run_of("sft", shared, student=B70), ranks=gpus - 1).memory_gib > 139
    assert fixes(run_of("sft", plain, student=B8), "H200") == [
        (True, "set training.gradient_checkpointing: true and training.tokens_per_micro_batch: 2048")
    ]
    answers = run_of("answers", teacher=B70)
    assert fixes(answers, "H100") == [(True, "needs a GPU of 134 GiB, or a smaller model")]
    assert fixes(answers, "8xH100") == [(True, "set `tensor_parallel: 4` in the section of its model")]
    slow = "it may run out of memory; slow: its caches have room for few rows at a time (8)"
    assert fixes(answers, "8xH200") == [(False, slow)]
    # 2 · 131.4 of weights, 1.5, and one row of 768 and of 512 positions
    two = run_of("synthesize", generator=B70, annotator="meta-llama/Llama-3.3-70B-Instruct")
    alone = "needs a GPU of 265 GiB, or one model as generator and annotator, or smaller models"
    assert fixes(two, "H200") == [(True, alone)]
    assert fixes(two, "8xH100") == [(True, "set `tensor_parallel: 8` in the section of its model")]
    held_out = run_of("held_out", model=B70, teacher=B70)  # vLLM writes only
    assert fixes(held_out, "8xH100") == [(True, "needs a GPU of 267 GiB, or smaller models")]
    eight = on_several(answers, 8)
    assert fixes(eight, "8xH100") == []
    assert fixes(eight, "4xH100") == [(True, "lower `tensor_parallel`, or take a host with as many")]
    assert fixes(eight, "8x4xH100") == fixes(eight, "4xH100")


def on_several(run: Run, gpus: int) -> Run:
    models = {role: one.model_copy(update={"tensor_parallel": gpus}) for role, one in run.models.items()}
    return replace(run, models=models)


def test_models_that_only_write_may_be_on_several_gpus():
    answers, two = run_of("answers", teacher=B70), run_of("synthesize", generator=B70, annotator=B8)
    found = parts(on_several(answers, 4), "4xH100")
    assert found["teacher"] == 2 * W70 / 4
    read = (4 * 8192 + 6 * 28672) * 16_384 / 4
    assert found["caches"] == pytest.approx(0.9 * 79 * GIB - 2 * W70 / 4 - read - 1.5 * GIB)
    found = parts(on_several(two, 8), "8xH100")
    assert (found["generator"], found["annotator"]) == (2 * W70 / 8, 2 * W8 / 8)
    run = on_several(answers, 8)
    share = Resources(2, ranks=2, gpus=[str(gpu) for gpu in range(8)]).take(run)
    assert (share.ranks, len(share.gpus), cost(run, "8xH100", 2).gpus) == (1, 8, 8)
    assert cost(run, "8xH100").hours < cost(on_several(answers, 4), "8xH100").hours


def test_hosts_share_by_a_key_and_wait_for_their_network():
    teacher = TrainingConfig(gradient_checkpointing=True, shard=True)
    hosts = teacher.model_copy(update={"shard": "host"})
    flat, held = (run_of("sft", config, student=B8) for config in (teacher, hosts))
    assert parts(flat, "2x8xH100")["student and optimizer"] == 16 * W8 / 16
    assert parts(held, "2x8xH100")["student and optimizer"] == 16 * W8 / 8
    assert parts(held, "8xH100") == parts(flat, "8xH100")  # one host: the same
    assert parts(held, "2x8xH100", 4) == parts(flat, "2x8xH100", 4)
    # On one host nothing waits: 16 GPUs of one take half of the time of 8, 16 of two at least that.
    seconds = [3600 * cost(flat, on).hours - START_SECONDS for on in ("8xH100", "16xH100", "2x8xH100")]
    assert seconds[0] == pytest.approx(2 * seconds[1])
    tokens, shape = 128 * 4096.0, Shape(**facts()["models"][B8])

    def waits(run: Run, on: str = "2x8xH100") -> float:
        return exchange_seconds(run, shape, None, tokens, machine(on), 16)

    # A step has 4 passes of 8,192 tokens per rank: 4 + 4 bytes of each weight, at 0.05 TB/s.
    assert waits(flat) == pytest.approx(4 * 8 * W8 / 0.05e12)
    assert waits(held) == pytest.approx(4 * 8 * W8 / 8 / 0.05e12)
    whole = run_of("sft", TrainingConfig(), student=B8)
    assert waits(whole) == pytest.approx(8 * W8 / 0.05e12)
    assert waits(flat, "16xH100") == 0


def test_vllm_samples_in_one_process():
    stage = DistillStage(name="gkd", kind="distill", data="rows", sampling=SamplingConfig(backend="vllm"))
    run = run_of("distill", config=stage, student=B1, teacher=B8)
    assert fixes(run, "8xH200", 1) == []
    assert fixes(run, "8xH200", 2) == [(True, "set `sampling.backend: torch`, or --gpus-per-run 1")]
    answered = SeqkdStage(name="seqkd", kind="seqkd", data="rows", sampling=SamplingConfig(backend="vllm"))
    assert fixes(run_of("seqkd", config=answered, student=B1), "8xH200", 2) == []  # its answers are a run of their own


def test_runs_are_grouped_and_those_that_build_on_them_counted():
    stuck = [run_of("answers", teacher=B70), run_of("answers", teacher="meta-llama/Llama-3.3-70B-Instruct")]
    child = replace(run_of("seqkd", student=B1), parents=(stuck[0],))
    (found,) = misfits([*stuck, child], model_of("8xH100"))
    assert (found.kind, len(found.runs), found.names) == ("answers", 2, "answers")
    assert blocked([*stuck, child], [found]) == 1
    assert found.text.startswith("2 answers runs (answers): about 133.")


# --- disk -------------------------------------------------------------------------------------------------------------


def kept(training: TrainingConfig | None = None, on_policy: float = 0.0, **signal: Any) -> Run:
    stage = STAGES["distill"].model_copy(update={"on_policy": on_policy, "signal": SignalConfig(**signal)})
    return run_of("distill", training or TrainingConfig(epochs=3), stage, student=B1, teacher=B8)


def test_a_teacher_elsewhere_takes_no_memory_and_no_time_here():
    local, served, cached = (kept(**signal) for signal in ({}, {"served": "http://a"}, {"cache": "exact"}))
    assert parts(local, ranks=1)["teacher"] == 2 * W8
    assert "teacher" not in parts(served, ranks=1)
    assert cost(served, ranks=1).memory_gib == cost(cached, ranks=1).memory_gib < cost(local, ranks=1).memory_gib
    # Before it trains, a cached run may need more: the student's float32 weights and a large teacher.
    large = parts(replace(cached, models=cached.models | {"teacher": ModelConfig(path=B70)}), ranks=1)
    assert sum(large.values()) == pytest.approx(4 * W1 + 2 * W70 + (4 * 8192 + 6 * 28672) * 16_384 + 3 * GIB)
    assert "teacher" not in large
    assert parts(kept(on_policy=0.5, cache="exact"), ranks=1)["teacher"] == 2 * W8
    here, once, elsewhere = (cost(run, ranks=1).flops for run in (local, cached, served))
    assert here - elsewhere == pytest.approx(3 * (once - elsewhere))  # one pass of three
    assert cost(served, ranks=1).hours < cost(cached, ranks=1).hours < cost(local, ranks=1).hours


def test_disk_of_kept_signals():
    model, width = model_of("H100"), Shape(**facts()["models"][B8]).hidden
    tokens = 1000 * 100
    assert disk_of(kept(), model).signals == 0
    assert disk_of(kept(cache="exact"), model).signals == 2 * width * tokens
    assert disk_of(kept(TrainingConfig(precision="float32"), cache="exact"), model).signals == 4 * width * tokens
    assert disk_of(kept(TrainingConfig(precision="float32"), cache="bfloat16"), model).signals == 2 * width * tokens
    assert disk_of(kept(cache="top_k", top_k=10), model).signals == 84 * tokens
    runs = [kept(cache="exact"), replace(kept(cache="exact"), seed=1), kept(cache="top_k")]  # two seeds share one
    together = disk_of_all(runs, model)
    assert together.signals == (2 * width + 164) * tokens
    assert "GiB: models" in disk_text(together)
    assert disk_text(together).endswith(f", teachers' signals {together.signals / GIB:,.1f}")


def test_disk():
    model = model_of("H100")
    saved = disk_of(run_of("sft", student=B8), model)
    assert (saved.models, saved.checkpoints) == (4 * W8, 2 * 12 * W8)  # the old one goes when the new one is whole
    half = disk_of(run_of("sft", TrainingConfig(precision="pure_bfloat16"), student=B8), model)
    assert (half.models, half.checkpoints) == (2 * W8, 2 * 6 * W8)
    narrow = TrainingConfig(save_precision="bfloat16", optimizer="adamw_8bit")
    found = disk_of(run_of("sft", narrow, student=B8), model)
    assert (found.models, found.checkpoints) == (2 * W8, 2 * 6 * W8)
    eight = Shape(**facts()["models"][B1] | {"layers": 8})
    assert disk_of(run_of("prune", model=B1), model).models == 4 * eight.weights
    answers = disk_of(run_of("answers", teacher=B8), model)
    assert answers.texts == 5 * 1000 * (11 * 100 + 100)
    assert disk_of(run_of("synthesize", generator=B8, annotator=B8), model).texts == 100_000 * (4 * 300 + 600)
    assert disk_of(run_of("evaluate", model=B8), model).texts == 1000 * (4 * 300 + 600)
    assert disk_of(run_of("benchmark", model=B8), model).texts == 541 * (2 * (4 * 460 + 600) + 4 * 400 + 300)
    runs = [run_of("sft", student=name) for name in (B1, B8, B70)]
    assert disk_of_all(runs, model).checkpoints == 24 * W70
    assert disk_of_all(runs, model, jobs=2).checkpoints == 24 * (W70 + W8)


# --- adapters and quantised teachers ----------------------------------------------------------------------------------

# Published: LoRA of rank 16 on all seven maps of Llama 3.1 8B has 41,943,040 weights.
