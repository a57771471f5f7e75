"""One step of each kind of run of recipes/paper on two ranks that share the models, as the recipes say, with stand-ins
of the true models' proportions: heads, width of the MLP, depth against width, tied head or not."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from chat_templates import CHATML, tokenizer
from recipes_fixture import ROWS, Workshop
from synthesize_recipe import OFF

from tutelage.common import run_folder
from tutelage.common.metrics_log import read_metrics
from tutelage.recipe.load import read_yaml
from tutelage.runs.cost.facts import Shape, facts
from tutelage.runs.ranks import Share
from tutelage.runs.run import Run, takes_ranks, with_parents
from tutelage.runs.worker import attempt
from tutelage.study.grid import plan_study

pytestmark = pytest.mark.slow

PAPER = Path(__file__).parents[2] / "recipes" / "paper"
SHRUNK = 64  # width, in which heads are 8 wide
TEACHER, STUDENT = "meta-llama/Llama-3.1-70B", "meta-llama/Llama-3.2-1B"
METHODS = {"general": ["gkd_sft", "seqkd"], "domain": ["mix", "two_stage"]}


def stand_in(folder: Path, name: str, seed: int) -> None:
    """A random model with the proportions of a published one, and a byte-level tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    true, tokens = Shape(**facts()["models"][name]), tokenizer(CHATML)
    heads = SHRUNK // 8
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokens),
        hidden_size=SHRUNK,
        intermediate_size=SHRUNK * true.feed_forward // true.hidden,
        num_hidden_layers=max(2, true.layers // 20),
        num_attention_heads=heads,
        num_key_value_heads=max(1, heads * true.kv_heads // true.heads),
        max_position_embeddings=512,
        tie_word_embeddings=true.tied,
        eos_token_id=tokens.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokens.save_pretrained(folder)


def template_of(name: str, train: Path) -> dict[str, Any]:
    """A template of recipes/paper with one step per training and few tokens; all else stays, `shard` among it."""
    content = read_yaml(PAPER / f"{name}.yaml")
    content["device"] = "cpu"
    for section in ("train", "tulu", "gold"):
        if section in content["data"]:
            content["data"][section] = {"path": str(train), "size": 6 if section == "gold" else 8}
    content["training"] |= {"batch_size": 4, "max_length": 128, "max_steps": 1}
    for stage in content["stages"]:
        if not find_spec("torchao"):
            stage.get("training", {}).pop("optimizer", None)
        if "sampling" in stage:
            stage["sampling"] |= {"max_new_tokens": 4}
        if stage["kind"] == "seqkd":
            stage["samples_per_prompt"] = 2
        if stage["kind"] == "synthesize":
            stage |= {"rows": 4, "demonstrations": 2, "form": "continuation", "min_acceptance": 0.9, "avoid": []}
            stage |= {part: {"max_new_tokens": 24, "batch_size": 8} for part in ("inputs", "answers")}
            stage["filters"] = {"skip": OFF.split()}
    return content


@pytest.fixture
def runs(workshop: Workshop) -> list[Run]:
    """The paper's runs of one seed, student and size, parents before children."""
    stand_in(workshop.folder / "teacher-model", TEACHER, 1)
    stand_in(workshop.folder / "student-model", STUDENT, 0)
    for name, methods in METHODS.items():
        template = template_of(name, workshop.folder / "train.jsonl")
        (workshop.folder / f"{name}.yaml").write_text(yaml.safe_dump(template, sort_keys=False))
        grid = {"template": f"{name}.yaml", "students": ["s"], "teachers": ["t"], "methods": methods, "sizes": [4]}
        if name == "domain":
            grid["values"] = {"gold": {}, "filters": {}}  # `template_of` has filled them in
        models = {"t": {"path": str(workshop.folder / "teacher-model"), "tensor_parallel": 8}}
        models |= {"s": {"path": str(workshop.folder / "student-model")}}
        study = {"name": name, "models": models, "grids": [grid | {"tasks": ["held"]}]}
        data = "train" if name == "general" else "gold"
        study["tasks"] = {"held": {"data": data, "max_length": 64}}
        file = workshop.folder / f"{name}-study.yaml"
        file.write_text(yaml.safe_dump(study, sort_keys=False))
    both = workshop.folder / "both.yaml"
    both.write_text(yaml.safe_dump({"name": "both", "include": [f"{name}-study.yaml" for name in METHODS]}))
    return with_parents(plan_study(both, workshop.runs).runs)


@pytest.mark.long
def test_a_step_of_each_kind_on_two_ranks(
    runs: list[Run], workshop: Workshop, warm_children: None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    kinds = {"sft", "distill", "seqkd", "answers", "synthesize", "held_out"}
    assert {run.kind for run in runs} == kinds
    steps = []
    for run in runs:
        if run.kind == "synthesize":  # random models write no text: its rows are given
            assert "attempts were accepted" in str(attempt(run))
            accepted = run.folder / "accepted"
            accepted.mkdir(exist_ok=True)
            (accepted / "given.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
            run_folder.finish(run.folder, {"kind": run.kind})
            continue
        problem = attempt(run, share=Share(ranks=2) if takes_ranks(run) else None)
        assert problem is None, problem
        if takes_ranks(run):
            assert run.training is not None
            assert run.training.shard == (True if run.stage.startswith("teacher") else "host")
            steps.append((run.stage, len(read_metrics(run.folder / "metrics.jsonl"))))
    # SFT on all of the data is one run of both templates.
    names = "teacher_sft sft gkd_sft seqkd teacher_sft sft mix warm two_stage"
    assert sorted(steps) == sorted((name, 1) for name in names.split())
