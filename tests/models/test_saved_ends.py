"""A saved model stops, wherever it is loaded, at the ends that it was trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jobs
import pytest
import tiny
import torch
from chat_templates import CHATML, tokenizer
from recipes_fixture import Workshop, save_tiny
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from tutelage.models.checkpoints.save import save_model
from tutelage.recipe.load import load_recipe
from tutelage.runs.do_run import do_run
from tutelage.runs.planner import Planner

PROMPT = torch.tensor([[3, 9, 8, 11]])


def generation_config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "generation_config.json").read_text())


def written(folder: Path) -> list[int]:
    model = AutoModelForCausalLM.from_pretrained(folder)
    options = {"attention_mask": torch.ones_like(PROMPT), "do_sample": False, "max_new_tokens": 30}
    return model.generate(PROMPT, **options)[0, PROMPT.shape[1] :].tolist()


def test_transformers_stops_at_each_end(tmp_path: Path):
    model = tiny.llama(packed=False, seed=4)
    save_model(model, jobs.words(), tmp_path / "free")
    free = written(tmp_path / "free")  # by the base's config it would stop at </s> (2) alone
    assert len(free) == 30
    end = free[7]
    stop = free.index(end) + 1
    for ends in ((end, 2), (2, end), (end,)):
        save_model(model, jobs.words(), tmp_path / "ended", ends=ends)
        assert written(tmp_path / "ended") == free[:stop]
        assert generation_config(tmp_path / "ended")["eos_token_id"] == list(ends)
        assert generation_config(tmp_path / "ended")["pad_token_id"] == 0


def test_a_tokenizer_without_padding_pads_with_an_end(tmp_path: Path):
    words = jobs.words()
    words.pad_token = None
    save_model(tiny.llama(packed=False), words, tmp_path / "m", ends=(20, 2))
    assert generation_config(tmp_path / "m")["pad_token_id"] == 20


@pytest.mark.parametrize("options", [{"temperature": 0.9, "top_p": 0.6}, {"num_beams": 1, "length_penalty": 2.0}])
def test_a_generation_config_that_transformers_would_not_save_is_mended(tmp_path: Path, options: dict[str, Any]):
    """Llama 2 has a temperature without `do_sample`: its training must not fail when the model is saved."""
    model = tiny.llama(packed=False)
    model.generation_config = GenerationConfig(eos_token_id=2, bos_token_id=1, **options)
    with pytest.raises(ValueError, match="invalid"):
        model.generation_config.validate(strict=True)
    save_model(model, jobs.words(), tmp_path / "m", ends=(20, 2))
    found = generation_config(tmp_path / "m")
    assert (found["eos_token_id"], found["bos_token_id"]) == ([20, 2], 1)
    assert ("temperature" in found) == ("temperature" in options) == found.get("do_sample", False)


@pytest.mark.slow
def test_a_student_taught_another_end_of_turn_is_saved_with_it(workshop: Workshop):
    base = tokenizer(None, eos="</s>")
    save_tiny(workshop.folder / "base", layers=2, seed=0, tokens=base)
    (workshop.folder / "chatml.jinja").write_text(CHATML)
    model = {"path": str(workshop.folder / "base"), "chat_template": str(workshop.folder / "chatml.jinja")}
    stages = [{"name": "sft", "kind": "sft", "data": "train"}]
    file = workshop.write(student=model, teacher=model, stages=stages)
    run = Planner(load_recipe(file), workshop.folder, workshop.runs).stage_run("sft", 0)
    do_run(run)
    made = run.folder / "model"
    tokens = AutoTokenizer.from_pretrained(made)
    ends = [tokens.convert_tokens_to_ids(end) for end in ("<|im_end|>", "</s>")]
    assert generation_config(workshop.folder / "base")["eos_token_id"] == ends[1]
    assert generation_config(made)["eos_token_id"] == ends
    assert GenerationConfig.from_pretrained(made).eos_token_id == ends  # what vLLM reads, too
    assert (tokens.chat_template, tokens.eos_token) == (CHATML, "</s>")
    prompt = tokens.apply_chat_template([{"role": "user", "content": "The cat?"}], add_generation_prompt=True)
    assert tokens.decode(prompt["input_ids"]).endswith("<|im_start|>assistant\n")
