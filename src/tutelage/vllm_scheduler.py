"""vLLM's scheduler with a short way through the steps in which rows only go on writing.

vLLM asks the same questions of every row in every step: is there an image to encode, a grammar, a draft to check, a
block to fetch from elsewhere? For 128 rows that is as much time in Python as the GPU needs for half a step, and the GPU
waits. In rollouts the answer is nearly always no. Where it is, `RolloutScheduler` hands out one more token a row and
takes down what came; in any other step, and for the rows that end in a step, vLLM's own scheduler does the work.

Tokens taken down the short way reach the caller with the row's next ordinary output, at the latest its last one. So
this is for callers that wait for whole responses, as `VllmSampler` does.

`scheduler_cls` is vLLM's own option for such a class, but what the class touches may change with any release:
`VllmSampler` uses it with vLLM 0.23 alone.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.interface import PauseState
from vllm.v1.core.sched.output import CachedRequestData, SchedulerOutput
from vllm.v1.kv_cache_interface import FullAttentionSpec
from vllm.v1.request import RequestStatus


class RolloutScheduler(AsyncScheduler):
    """Gives the worker the same steps as its parent, and callers the same responses, in fewer and larger pieces."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        groups = self.kv_cache_config.kv_cache_groups
        self._tokens_a_block = groups[0].kv_cache_spec.block_size if groups else 0
        parallel = self.vllm_config.parallel_config
        self._has_short_way = (
            self.use_v2_model_runner
            and len(groups) == 1
            and type(groups[0].kv_cache_spec) is FullAttentionSpec
            and parallel.pipeline_parallel_size * self.dcp_world_size * self.pcp_world_size == 1
            and self.num_spec_tokens == self.num_lookahead_tokens == 0
            and self.connector is None
            and self.ec_connector is None
            and self.lora_config is None
            and self.finished_req_ids_dict is None
            and not self.needs_kv_cache_zeroing
            and not self.enable_return_routed_experts
            and not self.log_stats
        )
        self._ends: dict[str, frozenset[int | None]] = {}  # of plain rows: the tokens that end them
        self._kept: dict[str, list[int]] = {}  # tokens that no output has reported yet

    def add_request(self, request: Any) -> None:
        if self._has_short_way and _is_plain(request):
            asked = request.sampling_params
            self._ends[request.request_id] = frozenset({asked.eos_token_id, *(asked.stop_token_ids or ())})
        super().add_request(request)

    def schedule(self) -> SchedulerOutput:
        rows = self._rows_that_go_on()
        if not rows:
            return super().schedule()
        self.current_step += 1
        cache, fresh = self.kv_cache_manager, {}
        cache.new_step_starts()
        for row in rows:
            if row.num_computed_tokens % self._tokens_a_block == 0:
                blocks = cache.allocate_slots(row, 1)
                assert blocks is not None  # `_rows_that_go_on` has counted them
                fresh[row.request_id] = blocks.get_block_ids(allow_none=True)
        output, ids = SchedulerOutput.make_empty(), [row.request_id for row in rows]
        output.scheduled_cached_reqs = CachedRequestData(
            req_ids=ids,
            resumed_req_ids=set(),
            new_token_ids=[],
            all_token_ids={},
            new_block_ids=[fresh.get(name) for name in ids],
            num_computed_tokens=[row.num_computed_tokens for row in rows],
            num_output_tokens=[row.num_output_tokens + row.num_output_placeholders for row in rows],
        )
        output.num_scheduled_tokens, output.total_num_scheduled_tokens = dict.fromkeys(ids, 1), len(ids)
        output.num_common_prefix_blocks = cache.get_num_common_prefix_blocks(ids[0])
        output.preempted_req_ids, output.finished_req_ids = set(), self.finished_req_ids
        self.prev_step_scheduled_req_ids.clear()
        self.prev_step_scheduled_req_ids.update(ids)
        self._update_after_schedule(output)
        return output

    def _rows_that_go_on(self) -> list[Any]:
        """The rows that get one more token, where that is all there is to do in this step; else none."""
        if not self._has_short_way or self.waiting or self.skipped_waiting:
            return []
        if self._pause_state != PauseState.UNPAUSED or len(self.running) > self.max_num_scheduled_tokens:
            return []
        rows, blocks = [], 0
        for row in self.running:
            computed, ahead = row.num_computed_tokens, row.num_output_placeholders
            if row.request_id not in self._ends or row.num_tokens + ahead - computed != 1 or not ahead:
                return []
            if computed + 2 - ahead >= row.num_prompt_tokens + row.max_tokens or computed + 1 >= self.max_model_len:
                continue  # the token under way is its last
            if row.request_id not in self.prev_step_scheduled_req_ids:
                return []
            rows.append(row)
            blocks += computed % self._tokens_a_block == 0
        return rows if blocks <= self.kv_cache_manager.block_pool.get_num_free_blocks() else []

    def update_from_output(self, scheduler_output: SchedulerOutput, model_runner_output: Any) -> dict[int, Any]:
        if not self._has_short_way:
            return super().update_from_output(scheduler_output, model_runner_output)
        sampled, places = model_runner_output.sampled_token_ids, model_runner_output.req_id_to_index
        rest = {}
        for name, tokens in scheduler_output.num_scheduled_tokens.items():
            row, ends = self.requests.get(name), self._ends.get(name)
            new = sampled[places[name]] if sampled else ()
            if (
                row is None
                or ends is None
                or len(new) != 1
                or new[0] in ends
                or row.num_output_tokens + 1 >= row.max_tokens
                or row.num_tokens + 1 >= self.max_model_len
                or row.status != RequestStatus.RUNNING
                or row.async_tokens_to_discard
            ):
                rest[name] = tokens
                continue
            row.append_output_token_ids(new[0])
            row.num_output_placeholders -= 1
            self._kept.setdefault(name, []).append(new[0])
        if not rest:
            return {}
        outputs = super().update_from_output(
            dataclasses.replace(scheduler_output, num_scheduled_tokens=rest), model_runner_output
        )
        for output in (one for client in outputs.values() for one in client.outputs):
            output.new_token_ids = self._kept.pop(output.request_id, []) + output.new_token_ids
        return outputs

    def _free_request(self, request: Any, *args: Any, **options: Any) -> Any:
        self._ends.pop(request.request_id, None)
        if request.status == RequestStatus.FINISHED_ABORTED:
            self._kept.pop(request.request_id, None)
        return super()._free_request(request, *args, **options)


def _is_plain(request: Any) -> bool:
    """Whether its tokens and their number are all that is asked for."""
    asked = request.sampling_params
    return asked is not None and not (
        asked.stop
        or asked.num_logprobs is not None
        or asked.prompt_logprobs is not None
        or asked.min_tokens
        or asked.repetition_detection
        or request.use_structured_output
        or request.has_encoder_inputs
        or request.resumable
    )
