"""The short way of `RolloutScheduler` beside vLLM's own scheduler: the same steps for the worker, the same answers."""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import asdict
from hashlib import blake2b

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed")

import torch
from transformers import LlamaConfig
from vllm import SamplingParams
from vllm.config import CacheConfig, DeviceConfig, ModelConfig, SchedulerConfig, VllmConfig
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus
from vllm.v1.structured_output import StructuredOutputManager

from tutelage.vllm_scheduler import RolloutScheduler

BLOCK = 4
LONGEST = 60


class Worker:
    """A scheduler with a worker that takes two steps at a time, as vLLM's engine does, and writes known tokens."""

    def __init__(self, kind, folder, blocks, caching, budget):
        LlamaConfig(
            num_hidden_layers=2, max_position_embeddings=LONGEST, architectures=["LlamaForCausalLM"]
        ).save_pretrained(folder)
        cache = CacheConfig(block_size=BLOCK, enable_prefix_caching=caching)
        cache.num_gpu_blocks = blocks
        config = VllmConfig(
            model_config=ModelConfig(model=str(folder), skip_tokenizer_init=True, max_model_len=LONGEST),
            cache_config=cache,
            scheduler_config=SchedulerConfig(
                max_num_seqs=8,
                max_num_batched_tokens=budget,
                max_model_len=LONGEST,
                is_encoder_decoder=False,
                async_scheduling=True,
            ),
            device_config=DeviceConfig(device="cpu"),
        )
        spec = FullAttentionSpec(block_size=BLOCK, num_kv_heads=1, head_size=8, dtype=torch.float32)
        self.scheduler = kind(
            vllm_config=config,
            kv_cache_config=KVCacheConfig(blocks, [], [KVCacheGroupSpec(["layer"], spec)]),
            structured_output_manager=StructuredOutputManager(config),
            block_size=BLOCK,
        )
        self.hasher = get_request_block_hasher(BLOCK, sha256) if caching else None
        self.steps, self.calls, self.short, self.waiting = [], 0, 0, []
        self.tokens, self.reasons = defaultdict(list), {}

    def add(self, name, prompt, **settings):
        request = Request(name, prompt, SamplingParams(**settings), None, block_hasher=self.hasher)
        self.scheduler.add_request(request)

    def step(self):
        scheduler = self.scheduler
        if scheduler.has_requests():
            short = type(scheduler) is RolloutScheduler and bool(scheduler._rows_that_go_on())
            self.short += short
            step = scheduler.schedule()
            self.steps.append(asdict(step))
            if step.total_num_scheduled_tokens:
                self.waiting.append((step, self.write(step)))
                if len(self.waiting) < 2:
                    return
        if self.waiting:
            outputs = scheduler.update_from_output(*self.waiting.pop(0))
            for output in outputs[0].outputs if outputs else ():
                self.calls += 1
                self.tokens[output.request_id] += output.new_token_ids
                if output.finish_reason is not None:
                    self.reasons[output.request_id] = (str(output.finish_reason), output.stop_reason)

    def write(self, step):
        """What a model would write: for each row a token that its name and place determine; none within a prompt."""
        ids = list(step.num_scheduled_tokens)
        rows = [self.scheduler.requests[name] for name in ids]
        sampled = [
            []
            if row.is_prefill_chunk
            else [blake2b(f"{row.request_id} {row.num_computed_tokens}".encode()).digest()[0]]
            for row in rows
        ]
        return ModelRunnerOutput(ids, {name: n for n, name in enumerate(ids)}, sampled_token_ids=sampled)

    def run(self, until=10_000):
        while (self.scheduler.has_requests() or self.waiting) and until:
            self.step()
            until -= 1
        return self


@pytest.fixture(autouse=True)
def second_runner(monkeypatch):
    monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", "1")
    monkeypatch.setattr(VllmConfig, "_validate_v2_model_runner", lambda self: None)
    init_none_hash(sha256)


def both(tmp_path, blocks=200, caching=True, budget=64):
    return [Worker(kind, tmp_path, blocks, caching, budget) for kind in (AsyncScheduler, RolloutScheduler)]


def fill(worker, seed, count=20, **settings):
    rng = random.Random(seed)
    for n in range(count):
        prompt = [rng.randrange(1_000) for _ in range(rng.randint(1, 30))]
        stops = rng.sample(range(256), 8)
        asked = {"max_tokens": rng.randint(1, 40), "stop_token_ids": stops, "ignore_eos": True} | settings
        worker.add(f"row {n}", prompt, **asked)


@pytest.mark.parametrize("caching", [True, False])
@pytest.mark.parametrize(("blocks", "budget"), [(200, 64), (30, 64), (200, 9)], ids=["roomy", "preempted", "chunked"])
@pytest.mark.parametrize("seed", range(5))
def test_the_short_way_takes_the_same_steps(tmp_path, seed, blocks, budget, caching):
    plain, ours = both(tmp_path, blocks, caching, budget)
    for worker in (plain, ours):
        fill(worker, seed)
        worker.run()
    assert ours.steps == plain.steps
    assert any(step["preempted_req_ids"] for step in ours.steps) == (blocks == 30)
    assert ours.tokens == plain.tokens
    assert ours.reasons == plain.reasons
    assert len(ours.reasons) == 20
    assert 0 < ours.short < len(ours.steps)
    assert ours.calls < plain.calls / 2
    assert not ours.scheduler._ends
    assert not ours.scheduler._kept


def test_rows_that_ask_for_more_go_the_long_way(tmp_path):
    plain, ours = both(tmp_path)
    for worker in (plain, ours):
        fill(worker, 0, count=4, logprobs=0)
        worker.run()
    assert ours.short == 0
    assert (ours.steps, ours.tokens, ours.calls) == (plain.steps, plain.tokens, plain.calls)


def test_rows_that_come_later_and_rows_given_up(tmp_path):
    plain, ours = both(tmp_path)
    for worker in (plain, ours):
        fill(worker, 1, count=5, max_tokens=30, stop_token_ids=[])
        worker.run(until=10)
        worker.scheduler.finish_requests(["row 1"], RequestStatus.FINISHED_ABORTED)
        worker.add("late", [1, 2, 3], max_tokens=7, ignore_eos=True)
        worker.run()
    assert ours.steps == plain.steps
    assert ours.reasons == plain.reasons
    assert set(ours.reasons) == {"late", "row 0", "row 2", "row 3", "row 4"}
    assert {name: ours.tokens[name] for name in ours.reasons} == {name: plain.tokens[name] for name in ours.reasons}
    assert not ours.scheduler._kept
