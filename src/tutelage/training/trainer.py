"""One training loop for every objective. `Trainer.step` is the whole method, top to bottom.

The result of a step depends neither on how its batch is split into micro-batches nor on the number of ranks: responses
are sampled first, so the weight of every token in the loss is known before the first forward pass.
"""

from __future__ import annotations

import contextlib
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tutelage.common.errors import TutelageError
from tutelage.common.hashing import keyed_integer
from tutelage.common.interrupt import Interrupted, stop_requests
from tutelage.common.metrics_log import MetricsFile, read_metrics
from tutelage.common.progress import progress, say
from tutelage.common.run_folder import METRICS
from tutelage.common.time_left import elapsed
from tutelage.common.types import MicroBatch, Signal, TeacherSignal, TokenSequence, TokenStats
from tutelage.data.batch import Order, make_micro_batch, make_micro_batches, rank_share
from tutelage.data.large.stored import weights_of
from tutelage.loss.objective import Objective
from tutelage.models.language_model import LanguageModel
from tutelage.models.load import compute_type
from tutelage.models.sharding import gathered, is_sharded, reshard, same_on_all_ranks, sum_gradients
from tutelage.models.working import Working
from tutelage.training import checkpoint
from tutelage.training.compiling import compile_models
from tutelage.training.job import Job
from tutelage.training.learning_rate import schedule
from tutelage.training.memory_budget import MicroBatchBudget, recompute_activations
from tutelage.training.on_policy import is_on_policy, write_responses
from tutelage.training.optimizer import make_optimizer, set_learning_rate
from tutelage.training.sample_log import sample_log
from tutelage.training.sharded_checkpoint import ShardWriter
from tutelage.training.shown_answers import ShownAnswers
from tutelage.training.step_totals import Totals, over_ranks, sequence_metrics
from tutelage.training.trackers import trackers


class Trainer:
    """Trains the job's student, on one rank or several.

    `accelerator`: accelerate's `Accelerator`, by default a new one on the student's kind of device.
    """

    def __init__(self, job: Job, accelerator: Any = None) -> None:
        from accelerate import Accelerator

        self.job, self.config = job, job.config
        self.accelerator = accelerator or Accelerator(cpu=next(job.student.model.parameters()).device.type == "cpu")
        self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes
        self.device = self.accelerator.device
        self._over_ranks = partial(over_ranks, self.device, self.world)
        # float32 weights unless requested otherwise: a 5e-6 step is below bfloat16's resolution of most weights. They
        # are what the optimizer changes and what is saved; `working` computes, perhaps in a narrower type.
        self.module = LanguageModel(job.student.model.train())
        if self.config.precision == "pure_bfloat16":
            self.module.to(torch.bfloat16)
        self.sharded = is_sharded(job.student.model)  # FSDP2 then sums the gradients itself
        if not self.sharded:
            self.module.to(self.device)
            if self.world > 1:
                same_on_all_ranks(self.module)
        self.working = Working(job.student.model, compute_type(self.config.precision, self.device))
        self.student = LanguageModel(self.working.model)
        if self.config.gradient_checkpointing is True:
            recompute_activations(self.working.model)
        optimizer = make_optimizer(self.config, self.module)
        self.optimizer = self.accelerator.prepare(optimizer)
        self.padding = not job.student.packed, job.student.tokenizer.pad_token_id or 0  # whether to pad, and the id
        self.budget = MicroBatchBudget(
            self.config, self.module, self.optimizer, self.padding, self.working.model, self._any_rank
        )
        self.copies = weights_of(job.examples)
        self.writer: ShardWriter | None = None
        self._order: tuple[int, Order] | None = None  # of an epoch, which its steps share
        self.sequences: Sequence[TokenSequence] = ()  # this rank's, of the latest step
        self.steps_per_epoch = math.ceil(float(self.copies.sum()) / self.config.batch_size)
        self.total_steps = self.config.max_steps or self.steps_per_epoch * self.config.epochs
        compile_models(job, self.working.model, self.total_steps)

    def run(self) -> dict[str, Any]:
        """Train to the end, from the last checkpoint if there is one. Returns the last step's metrics.

        Raises Interrupted after a request to stop, when the state is saved, and TutelageError for a loss that is not
        finite.
        """
        job, folder = self.job, self.job.folder
        checkpoints = folder / "checkpoints"
        found = checkpoint.latest_checkpoint(checkpoints, job.fingerprint, self._any_rank, self.rank, self.world)
        start = 0
        if found is not None:
            checkpoint.load_checkpoint(found[0], self.module, self.optimizer)
            start = found[1]
            if self.rank == 0:
                say(f"{job.title}: goes on after step {start} of {self.total_steps}")
        lines = read_metrics(folder / METRICS) if start else []
        # If all steps are done already, these are the last step's.
        metrics: dict[str, Any] = lines[start - 1] if len(lines) >= start > 0 else {}
        with contextlib.ExitStack() as stack:
            log = bar = samples = shown = None
            if self.rank == 0:
                if job.sampler is not None:
                    samples = stack.enter_context(sample_log(folder, start, self.total_steps, job.student.tokenizer))
                alone = self.world == 1 and self.device.type == "cpu"
                shown = ShownAnswers(job.student, job.asked, self.total_steps, may_sample=alone)
                log = stack.enter_context(contextlib.closing(MetricsFile(folder / METRICS, start)))
                bar = stack.enter_context(progress(job.title, self.total_steps, start, unit="steps"))
            stack.enter_context(trackers(self.accelerator, self.config, folder))
            stop = stack.enter_context(stop_requests())
            for step in range(start, self.total_steps):
                metrics = self.step(step)
                if self._due(self.config.evaluate_every, step) and job.validation:
                    metrics |= self.validate()
                if log is not None and bar is not None and shown is not None:
                    if samples is not None:  # before the metrics, so that no step is counted whose sample is lost
                        samples.write(step + 1, self.sequences)
                    log.write(metrics)
                    bar.advance(1, f"loss {metrics['loss']:.3g}")
                    shown.look(step + 1, self.sequences)
                self.accelerator.log({k: v for k, v in metrics.items() if v is not None}, step=step + 1)
                stopping = self._any_rank(bool(stop))
                last = step + 1 == self.total_steps
                if stopping or (self._due(self.config.checkpoint_every, step) and not last):
                    self._save(step + 1)
                if stopping and not last:
                    self._finish_saving()
                    where = f"step {step + 1} of {self.total_steps} of {job.title}"
                    raise Interrupted(f"stopped after {where}; the same command goes on from there")
            self._finish_saving()
        return metrics

    def step(self, step: int) -> dict[str, Any]:
        """Optimizer step number `step` (from 0): one batch of examples over all ranks. Returns its metrics."""
        job, config, began = self.job, self.config, time.monotonic()
        epoch = step // self.steps_per_epoch
        self.working.refresh()

        # 1. This batch's examples. Each response is the data's or, with probability λ, the current student's (eq. 1).
        global_batch = self._examples(step)
        examples = rank_share(global_batch, self.rank, self.world)
        sequences = examples
        if job.rollouts is not None:
            if job.teacher is not None:  # one elsewhere reads the data's responses while the student samples
                given = [e for e in examples if not is_on_policy(job.rollouts, epoch, e.index, e.part)]
                job.teacher.expect(given, config.tokens_per_micro_batch)
            if job.sampler is not None:
                job.sampler.update_weights(self.working.model)
            sequences = write_responses(job.rollouts, examples, epoch, step, job.sampler, self._pending(step))
        self.sequences, sampling_seconds = sequences, elapsed(began)

        # 2. The weight of each token in the loss, over all ranks. The loss is divided here and nowhere else (eq. 2).
        token_weights = self._token_weights(sequences)

        # 3. Micro-batches by token budget, equally many on every rank.
        budget = self.budget.tokens(sequences, job.examples, self._trial_pass)
        batches = self._batches(sequences, token_weights, budget, spare=global_batch[0])

        # 4. Forward and backward, then the sum of the gradients over the ranks.
        totals, signals = Totals(self.device, job.ce_weight), self._signals(batches)
        for batch in batches:
            totals.add(batch, *self._forward_backward(batch, next(signals)))
        if self.world > 1 and not self.sharded:
            sum_gradients(self.module)

        # 5. Clip the gradient, set the learning rate, update the weights.
        values = totals.values(self.world)
        norm = self.accelerator.clip_grad_norm_(self.module.parameters(), config.max_grad_norm or math.inf)
        values["grad_norm"] = float(gathered(norm))  # type: ignore[arg-type]
        self._refuse_nonfinite(values, sequences, batches, step)
        set_learning_rate(self.optimizer, config.learning_rate * schedule(config, step, self.total_steps))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

        seconds = elapsed(began)
        values = {"step": step + 1, "epoch": (step + 1) / self.steps_per_epoch, **values}
        values["learning_rate"] = config.learning_rate * schedule(config, step, self.total_steps)
        values |= sequence_metrics(sequences, seconds, sampling_seconds, self._over_ranks)
        if self.device.type == "cuda":
            values["peak_gib"] = torch.cuda.max_memory_allocated(self.device) / 2**30
        return values

    def first_batch(self) -> MicroBatch:
        """This rank's first micro-batch of the first step, as the data answers it, on the device; all ranks call it."""
        examples = self._examples(0)
        own = rank_share(examples, self.rank, self.world)
        return self._batches(own, [1.0] * len(own), self.config.tokens_per_micro_batch, spare=examples[0])[0]

    @torch.no_grad()
    def loss_of(self, batch: MicroBatch, objective: Objective, teacher: Signal | None) -> Tensor:
        """The student's weighted loss of a micro-batch, without dropout and gradient."""
        with self._evaluating():
            return self.student(batch, objective, teacher)[0]

    def _signals(self, batches: Sequence[MicroBatch]) -> Iterator[Signal | None]:
        """The teacher's signal of each micro-batch; a teacher elsewhere is asked ahead."""
        return repeat(None) if self.job.teacher is None else self.job.teacher.signals(batches)

    def _trial_pass(self, batch: MicroBatch) -> None:
        self._forward_backward(batch, next(self._signals([batch])))

    def _forward_backward(self, batch: MicroBatch, teacher: Signal | None) -> tuple[Tensor, TokenStats]:
        """The weighted loss of a micro-batch, after adding its gradient to that of `module`.

        The objective computes divergence and gradient together, for one chunk of tokens at a time.
        """
        with self.working.autocast():
            loss, stats = self.student(batch, self.job.objective_of(batch.sampled), teacher)
        (loss * self.world if self.sharded else loss).backward()  # FSDP2 averages over ranks
        return loss, stats

    @torch.no_grad()
    def validate(self) -> dict[str, Any]:
        """Means per response token over the validation data, as `validation_…`."""
        sequences = rank_share(self.job.validation, self.rank, self.world)
        weights = [1.0 / self._over_ranks(sum(s.response_tokens for s in sequences))] * len(sequences)
        totals, tokens = Totals(self.device, self.job.ce_weight), self.config.tokens_per_micro_batch
        batches = self._batches(sequences, weights, tokens, spare=self.job.validation[0])
        with self._evaluating():
            for batch, teacher in zip(batches, self._signals(batches), strict=False):
                totals.add(batch, *self.student(batch, self.job.objective_of(batch.sampled), teacher))
        return {f"validation_{k}": v for k, v in totals.values(self.world).items()}

    def _batches(
        self, sequences: Sequence[TokenSequence], weights: Sequence[float], tokens: int, spare: TokenSequence
    ) -> list[MicroBatch]:
        """Micro-batches of at most `tokens` tokens, on the device.

        Ranks must run equally many, so missing ones are copies of `spare` with weight 0.
        """
        by_author = self.job.ce_weight > 0.0  # the two then have different objectives
        batches = make_micro_batches(sequences, weights, tokens, *self.padding, by_author=by_author)
        missing = int(self._over_ranks(len(batches), dist.ReduceOp.MAX)) - len(batches)
        batches += [make_micro_batch([spare], [0.0], *self.padding)] * missing
        # All at once: a copy during the loop would wait for the device.
        return [batch.to(self.device) for batch in batches]

    def _examples(self, step: int) -> list[TokenSequence]:
        """The batch of a step over all ranks, by the epoch's seeded order. The last batch of an epoch may be short."""
        epoch, place = divmod(step, self.steps_per_epoch)
        size = self.config.batch_size
        if self._order is None or self._order[0] != epoch:
            generator = torch.Generator().manual_seed(keyed_integer("order", self.job.seed, epoch))
            order = torch.randperm(len(self.job.examples), generator=generator)
            self._order = epoch, Order(self.copies, order)
        return self._order[1].take(self.job.examples, place * size, (place + 1) * size)

    def _token_weights(self, sequences: Sequence[TokenSequence]) -> list[float]:
        """The weight in the loss of each response token of a sequence, one number per sequence.

        token: 1 / response tokens of the batch.  sequence: 1 / (sequences of the batch · response tokens of this one),
        eq. 2.  sum: 1, appendix A.2.  The batch is that of all ranks; a sequence counts `weight` times.
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

    def _refuse_nonfinite(
        self, values: dict[str, Any], sequences: Sequence[TokenSequence], batches: Sequence[MicroBatch], step: int
    ) -> None:
        """Raise TutelageError for a loss or gradient that is not finite, and say whose numbers were not."""
        if math.isfinite(values["loss"]) and math.isfinite(values["grad_norm"]):
            return
        rows = f"data rows {sorted(s.index for s in sequences)[:8]} …"
        teacher, cause = self.job.teacher, "Lower `learning_rate`, or use `precision: float32`"
        if teacher is not None:
            broken = [not _is_finite(teacher.signal(batch)) for batch in batches]
            if self._any_rank(any(broken)):
                raise TutelageError(
                    f"the teacher `{teacher.name}` gives numbers that are not finite (step {step + 1}, {rows}): "
                    "use another copy of it, or `precision: float32` if its own type is narrower"
                )
        if step == 0:  # nothing was learnt yet
            cause = f"The student `{self.job.student.name}` itself gives them: use another copy or `precision: float32`"
        raise TutelageError(
            f"loss {values['loss']}, gradient norm {values['grad_norm']} at step {step + 1} ({rows}): the weights "
            f"before it and the last checkpoint are kept. {cause}"
        )

    def _save(self, step: int) -> None:
        job, folder = self.job, self.job.folder / "checkpoints"
        state = self.module, self.optimizer, job.fingerprint
        if self.sharded and self.world > 1:
            self._finish_saving()
            self.writer = self.writer or ShardWriter(folder, self._any_rank)
            checkpoint.save_shards(self.writer, folder, step, *state)
            return
        checkpoint.save_checkpoint(folder, step, *state, write=self.rank == 0)
        self.accelerator.wait_for_everyone()
        shutil.rmtree(self._pending(step).parent, ignore_errors=True)

    def _finish_saving(self) -> None:
        """Wait for a checkpoint that is being written; samples from before it are then not needed any more."""
        saved = (self.writer.finish() if self.writer is not None else None) or 0
        for file in self._pending(0).parent.glob("*.json"):
            if int(file.stem) < saved:
                file.unlink()

    def _pending(self, step: int) -> Path:
        """The file with this rank's samples of a step, kept until the next checkpoint."""
        return self.job.folder / "checkpoints" / f"pending-{self.rank}" / f"{step:08d}.json"

    @contextlib.contextmanager
    def _evaluating(self) -> Iterator[None]:
        """For a block in which the student, with its newest weights, has no dropout."""
        self.working.refresh()
        self.working.model.eval()
        with self.working.autocast():
            yield
        reshard(self.working.model.train())

    @staticmethod
    def _due(every: int | None, step: int) -> bool:
        return every is not None and (step + 1) % every == 0

    def _any_rank(self, flag: bool) -> bool:
        return self._over_ranks(float(flag), dist.ReduceOp.MAX) > 0


def _is_finite(signal: Signal) -> bool:
    values = signal.hidden if isinstance(signal, TeacherSignal) else signal.tail
    return bool(torch.isfinite(values).all())
