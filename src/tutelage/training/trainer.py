"""One loop for every objective. Read `Trainer.step` from top to bottom: it is the whole method.

The result of a step depends neither on how its batch is cut into micro-batches nor on the number of ranks: responses
are sampled first, so every token's share of the loss is known before the first forward pass.
"""

from __future__ import annotations

import contextlib
import math
import shutil
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tutelage.common.errors import TutelageError
from tutelage.common.hashing import keyed_integer
from tutelage.common.interrupt import Interrupted, stop_requests
from tutelage.common.metrics_log import MetricsFile, read_metrics
from tutelage.common.progress import progress
from tutelage.common.run_folder import METRICS
from tutelage.common.types import MicroBatch, TokenSequence
from tutelage.data.batch import make_micro_batch, make_micro_batches, rank_share, take_copies
from tutelage.models.language_model import LanguageModel
from tutelage.models.load import compute_type
from tutelage.models.sharding import gathered, is_sharded, local_part, reshard
from tutelage.training import checkpoint
from tutelage.training.job import Job
from tutelage.training.learning_rate import schedule
from tutelage.training.memory_budget import filled, token_budget
from tutelage.training.on_policy import write_responses
from tutelage.training.step_totals import Totals, over_ranks
from tutelage.training.trackers import trackers


class Trainer:
    def __init__(self, job: Job, accelerator: Any = None) -> None:
        from accelerate import Accelerator

        self.job, self.config = job, job.config
        self.accelerator = accelerator or Accelerator(cpu=next(job.student.model.parameters()).device.type == "cpu")
        self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes
        self.device = self.accelerator.device
        self._over_ranks = partial(over_ranks, self.device, self.world)
        if self.config.gradient_checkpointing:
            job.student.model.gradient_checkpointing_enable({"use_reentrant": False})
        module = LanguageModel(job.student.model.train())
        # Models in pure bf16 only when asked for: a 5e-6 step is below bf16's resolution of most weights.
        self.compute = compute_type(self.config.precision, self.device)
        if self.config.precision == "pure_bfloat16":
            module.to(torch.bfloat16)
        optimizer = torch.optim.AdamW(
            [p for p in module.parameters() if p.requires_grad],
            lr=self.config.learning_rate,
            betas=self.config.adam_betas,
            eps=self.config.adam_eps,
            weight_decay=self.config.weight_decay,
            fused=True,
        )
        self.sharded = is_sharded(job.student.model)  # it then sums its gradients itself
        self.module = module if self.sharded else self.accelerator.prepare(module)
        self.optimizer = self.accelerator.prepare(optimizer)
        self.padding = not job.student.packed, job.student.tokenizer.pad_token_id or 0  # whether, and with what
        self.measured_tokens: int | None = None
        self.copies = torch.tensor([example.weight for example in job.examples], dtype=torch.float64)
        self.steps_per_epoch = math.ceil(float(self.copies.sum()) / self.config.batch_size)
        self.total_steps = self.config.max_steps or self.steps_per_epoch * self.config.epochs

    def run(self) -> dict[str, Any]:
        """Train from the last checkpoint, or from the start, to the end. Returns the last step's metrics."""
        job, folder = self.job, self.job.folder
        found = checkpoint.latest_checkpoint(folder / "checkpoints", job.fingerprint)
        start = 0
        if found is not None:
            checkpoint.load_checkpoint(found[0], self.module, self.optimizer)
            start = found[1]
        lines = read_metrics(folder / METRICS) if start else []
        metrics: dict[str, Any] = lines[start - 1] if len(lines) >= start > 0 else {}  # stopped in the last step
        with contextlib.ExitStack() as stack:
            log = bar = None
            if self.rank == 0:
                log = stack.enter_context(contextlib.closing(MetricsFile(folder / METRICS, start)))
                bar = stack.enter_context(progress(job.title, self.total_steps, start))
            stack.enter_context(trackers(self.accelerator, self.config, folder))
            stop = stack.enter_context(stop_requests())
            for step in range(start, self.total_steps):
                metrics = self.step(step)
                if self._due(self.config.evaluate_every, step) and job.validation:
                    metrics |= self.validate()
                if log is not None and bar is not None:
                    log.write(metrics)
                    bar.advance(1, f"loss {metrics['loss']:.4f}, {metrics['tokens_per_s']:.0f} tokens/s")
                self.accelerator.log({k: v for k, v in metrics.items() if v is not None}, step=step + 1)
                stopping = self._any_rank(bool(stop))
                last = step + 1 == self.total_steps
                if stopping or (self._due(self.config.checkpoint_every, step) and not last):
                    self._save(step + 1)
                if stopping and not last:
                    raise Interrupted(f"stopped after step {step + 1}; the same command goes on from there")
        return metrics

    def step(self, step: int) -> dict[str, Any]:
        """One optimizer step over one batch of examples."""
        job, config, began = self.job, self.config, time.monotonic()
        epoch = step // self.steps_per_epoch

        # 1. This batch's examples; each answered by the data or, with probability λ, by the student as it is now.
        everyones = self._examples(step)
        examples = rank_share(everyones, self.rank, self.world)
        sequences = examples
        if job.rollouts is not None:
            if job.sampler is not None:
                job.sampler.update_weights(self._bare().model)
            # Not under autocast: the sampler has its own compute type, and its probabilities are float32.
            sequences = write_responses(job.rollouts, examples, epoch, step, job.sampler, self._pending(step))
        sampled = time.monotonic() - began

        # 2. Each token's share of the loss, over all ranks. It is divided here, once, and nowhere else.
        token_weights = self._token_weights(sequences)

        # 3. Micro-batches by token budget, as many on every rank.
        budget = self._micro_batch_tokens(sequences)
        batches = self._batches(sequences, token_weights, budget, spare=everyones[0])

        # 4. Forward and backward. The divergence and its gradient are made together, chunk by chunk of tokens.
        totals = Totals(self.device)
        for i, batch in enumerate(batches):
            teacher = None if job.teacher is None else job.teacher.signal(batch)
            with self._no_sync() if i + 1 < len(batches) else contextlib.nullcontext():
                with self._autocast():
                    loss, stats = self.module(batch, job.objective, teacher)
                (loss * self.world).backward()  # data parallelism averages over ranks; the weights sum to one over all
            totals.add(batch, loss, stats)

        # 5. Clip, step, schedule.
        values = totals.values(self.world)
        norm = self.accelerator.clip_grad_norm_(self.module.parameters(), config.max_grad_norm or math.inf)
        values["grad_norm"] = float(gathered(norm))  # type: ignore[arg-type]
        self._refuse_nonfinite(values, sequences, step)
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * schedule(config, step, self.total_steps)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

        return self._metrics(step, values, sequences, began, sampled)

    def _micro_batch_tokens(self, sequences: Sequence[TokenSequence]) -> int:
        """`tokens_per_micro_batch`, or what `memory_gib` holds: measured once, when the sampler has its memory."""
        if self.config.memory_gib is None or self.device.type != "cuda":
            return self.config.tokens_per_micro_batch
        if self.measured_tokens is None:
            parameters = sum(local_part(p).nbytes for p in self.module.parameters() if p.requires_grad)
            state = 0 if self.optimizer.state else 2 * parameters  # Adam's two moments are made in the first step
            longest = max(len(s.ids) for s in [*self.job.examples, *sequences])
            limit = int(self.config.memory_gib * 2**30)
            self.measured_tokens = token_budget(lambda n: self._peak_bytes(sequences, n), limit, state, longest)
            self.optimizer.zero_grad(set_to_none=True)
        return self.measured_tokens

    def _peak_bytes(self, sequences: Sequence[TokenSequence], tokens: int) -> int:
        """The most memory held at once in a forward and backward pass of `tokens` tokens of these sequences."""
        parts = filled(sequences, tokens, self.config.max_length)
        batch = make_micro_batch(parts, [1.0 / tokens] * len(parts), *self.padding).to(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        with self._no_sync(), torch.random.fork_rng(devices=[self.device]):
            teacher = None if self.job.teacher is None else self.job.teacher.signal(batch)
            with self._autocast():
                self.module(batch, self.job.objective, teacher)[0].backward()
        return torch.cuda.max_memory_allocated(self.device)

    @torch.no_grad()
    def validate(self) -> dict[str, Any]:
        """Mean values over the held-out data, response token by response token."""
        self._bare().model.eval()
        sequences = rank_share(self.job.validation, self.rank, self.world)
        weights = [1.0 / self._over_ranks(sum(s.response_tokens for s in sequences))] * len(sequences)
        totals, tokens = Totals(self.device), self.config.tokens_per_micro_batch
        for batch in self._batches(sequences, weights, tokens, spare=self.job.validation[0]):
            teacher = None if self.job.teacher is None else self.job.teacher.signal(batch)
            with self._autocast():
                loss, stats = self._bare()(batch, self.job.objective, teacher)
            totals.add(batch, loss, stats)
        reshard(self._bare().model.train())
        return {f"validation_{k}": v for k, v in totals.values(self.world).items()}

    def _batches(
        self, sequences: Sequence[TokenSequence], weights: Sequence[float], tokens: int, spare: TokenSequence
    ) -> list[MicroBatch]:
        """A rank with fewer than others gets weightless ones, of `spare`, so that none waits for ever."""
        batches = make_micro_batches(sequences, weights, tokens, *self.padding)
        missing = int(self._over_ranks(len(batches), dist.ReduceOp.MAX)) - len(batches)
        batches += [make_micro_batch([spare], [0.0], *self.padding)] * missing
        return [batch.to(self.device) for batch in batches]  # now: a copy later would wait for the device

    def _examples(self, step: int) -> list[TokenSequence]:
        """The global batch of a step: its part of the epoch's seeded order. The last batch of an epoch may be short."""
        epoch, place = divmod(step, self.steps_per_epoch)
        generator = torch.Generator().manual_seed(keyed_integer("order", self.job.seed, epoch))
        order = torch.randperm(len(self.job.examples), generator=generator)
        size = self.config.batch_size
        return take_copies(self.job.examples, self.copies, order, place * size, (place + 1) * size)

    def _token_weights(self, sequences: Sequence[TokenSequence]) -> list[float]:
        """The weight of each response token of each sequence. Sums run over the batches of all ranks.

        token: 1 / all response tokens.  sequence: 1 / (sequences · own tokens), eq. 2.  sum: 1, appendix A.2.
        `weight` counts a sequence as that many copies.
        """
        tokens = self._over_ranks(sum(s.weight * s.response_tokens for s in sequences))
        count = self._over_ranks(sum(s.weight for s in sequences))
        if tokens == 0:
            raise TutelageError(
                f"no response token in a whole batch (rows {[s.index for s in sequences][:5]} …): check the data's "
                f"assistant turns and `training.max_length`"
            )
        if self.config.reduction == "token":
            return [s.weight / tokens for s in sequences]
        if self.config.reduction == "sequence":
            return [s.weight / (count * max(1, s.response_tokens)) for s in sequences]
        return [s.weight for s in sequences]

    def _refuse_nonfinite(self, values: dict[str, Any], sequences: Sequence[TokenSequence], step: int) -> None:
        if math.isfinite(values["loss"]) and math.isfinite(values["grad_norm"]):
            return
        raise TutelageError(
            f"loss {values['loss']}, gradient norm {values['grad_norm']} at step {step + 1} (data rows "
            f"{sorted(s.index for s in sequences)[:8]} …): the weights before it and the last checkpoint are kept. "
            f"Lower `learning_rate`, or use `precision: float32`"
        )

    def _metrics(
        self, step: int, values: dict[str, Any], sequences: Sequence[TokenSequence], began: float, sampled: float
    ) -> dict[str, Any]:
        seconds = time.monotonic() - began
        written = [s for s in sequences if s.author == "student"]
        tokens = self._over_ranks(sum(len(s.ids) for s in sequences))
        lengths = self._over_ranks(sum(len(s.ids) - s.prompt_length for s in written))
        count = self._over_ranks(len(written))
        out: dict[str, Any] = {"step": step + 1, "epoch": (step + 1) / self.steps_per_epoch, **values}
        out["learning_rate"] = self.optimizer.param_groups[0]["lr"]
        out["on_policy"] = count / self._over_ranks(len(sequences))
        out["sampled_length"] = lengths / count if count else None
        out["sampled_cut"] = self._over_ranks(sum(s.cut for s in written)) / count if count else None
        out["tokens"] = int(tokens)
        out["seconds"] = seconds
        out["tokens_per_s"] = tokens / seconds
        out["sampled_tokens_per_s"] = lengths / sampled if count else None
        if self.device.type == "cuda":
            out["peak_gib"] = torch.cuda.max_memory_allocated(self.device) / 2**30
        return out

    def _save(self, step: int) -> None:
        job, folder = self.job, self.job.folder / "checkpoints"
        checkpoint.save_checkpoint(folder, step, self.module, self.optimizer, job.fingerprint, write=self.rank == 0)
        self.accelerator.wait_for_everyone()
        shutil.rmtree(self._pending(step).parent, ignore_errors=True)

    def _pending(self, step: int) -> Path:
        """Where this rank's samples of a step stay until the next checkpoint."""
        return self.job.folder / "checkpoints" / f"pending-{self.rank}" / f"{step:08d}.json"

    def _bare(self) -> LanguageModel:
        return self.accelerator.unwrap_model(self.module)

    def _no_sync(self) -> Any:
        """Gradients stay on their rank. Not of a sharded model: unsummed they would be whole, on every rank."""
        return contextlib.nullcontext() if self.sharded else self.accelerator.no_sync(self.module)

    def _autocast(self) -> Any:
        return torch.autocast(self.device.type, self.compute, enabled=self.compute != torch.float32)

    @staticmethod
    def _due(every: int | None, step: int) -> bool:
        return every is not None and (step + 1) % every == 0

    def _any_rank(self, flag: bool) -> bool:
        return self._over_ranks(float(flag), dist.ReduceOp.MAX) > 0
