"""A training run: load the models, encode the data, assemble the job, train, save."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch

from tutelage.common import run_folder
from tutelage.common.errors import TutelageError
from tutelage.common.files import write_atomically
from tutelage.common.interrupt import stop_requests
from tutelage.common.metrics_log import read_metrics
from tutelage.common.progress import cause_of, tell
from tutelage.common.types import Conversation, Message, TokenSequence
from tutelage.data.chat_template import ChatTemplate
from tutelage.data.dataset import questions_of
from tutelage.data.large.stored import Joined, JoinedSequences, StoredSequences
from tutelage.data.teacher_prompts import same_rendering
from tutelage.data.thoughts import begun_thought
from tutelage.loss.objective import CrossEntropy, Divergence, Objective
from tutelage.models.limits import embedding_rows
from tutelage.models.load import LoadedModel
from tutelage.models.sharding import many_ranks
from tutelage.models.surgery.lora import passed_over, trainable_weights
from tutelage.models.vocabulary import check_vocabularies
from tutelage.recipe.stages import DistillStage, MethodStage, SeqkdStage
from tutelage.runs.run import Run
from tutelage.runs.stages.encode import Encoded, encoded, readable_length
from tutelage.runs.stages.students import load_student, save_student
from tutelage.runs.stages.teacher import check_pair, load_teacher, signal_of, teacher_of
from tutelage.sampling.make_sampler import make_sampler
from tutelage.teachers.protocol import Teacher
from tutelage.teachers.quantised import precision_cost
from tutelage.training.job import Job
from tutelage.training.methods import METHODS
from tutelage.training.on_policy import RolloutPlan
from tutelage.training.shown_answers import Asked
from tutelage.training.teacher_answers import answer_examples, read_answers, retokenise
from tutelage.training.trainer import Trainer

_CANDIDATES = 40  # rows of which one is the one that the student answers now and then
_LINE = 100  # characters of a question that a line of a terminal holds

_LAST_STEPS, _ENDLESS = 5, 0.9  # steps that are looked at, and the share of cut replies that is told

PRECISION = "teacher_precision.json"  # what a quantised teacher costs; measured before the first step


def train(run: Run) -> dict[str, Any]:
    """Train the run's student to the end and save it; returns the content of result.json.

    Goes on from the folder's last checkpoint. Raises TutelageError when student, teacher and data do not fit together,
    and Interrupted when it was asked to stop and has saved its state.
    """
    training = run.training
    assert training is not None
    sharded = training.shard if training.shard and _join_ranks(run) else False
    student = load_student(run, sharded)
    teacher, shared = load_teacher(run, student, sharded) if "teacher" in run.models else (None, False)
    trainer, reports, questions = prepare(run, student, teacher, shared)
    validation = bool(trainer.job.validation)
    if trainer.rank == 0:
        run_folder.write_json(run.folder, run_folder.DATA, reports)
        write_atomically(run.folder / run_folder.QUESTIONS, json.dumps(questions, separators=(",", ":")) + "\n")
    precision = _teacher_precision(run, trainer, teacher)
    before = trainer.validate() if validation else None
    with stop_requests():  # the last steps have no checkpoint, so after them the model is always saved
        last = trainer.run()
        after = trainer.validate() if validation else None
        save_student(run, student, bool(sharded), write=trainer.rank == 0)
    result: dict[str, Any] = {"kind": run.kind, "stage": run.stage, "seed": run.seed, "data": reports, "last": last}
    if before is not None and after is not None:
        result["perplexity_before"] = math.exp(before["validation_cross_entropy"])
        result["perplexity_after"] = math.exp(after["validation_cross_entropy"])
        if isinstance(run.config, DistillStage):
            name = "validation_kd_loss" if run.config.ce_weight else "validation_loss"
            result |= {"divergence_before": before[name], "divergence_after": after[name]}
    notices: list[str] = [] if precision is None else precision["notices"]
    if precision is not None:
        result |= precision
    if (signal := signal_of(run)).approximate:
        notices.append(
            f"{run.stage} (seed {run.seed}) had of its teacher the {signal.top_k} likeliest tokens: its loss is "
            f"approximate, in the last step at most {last.get('loss_error_bound', math.nan):.4f} below the exact one"
        )
    if endless := _endless_replies(run):
        tell(endless, cause=cause_of(endless))
        notices.append(endless)
    if run.lora is not None and (lacking := passed_over(student.model, run.lora)):
        notices.append(f"{run.stage} (seed {run.seed}): {lacking}")
    if notices:
        result["notices"] = notices
    if run.lora is not None:
        result["adapter"] = {"trained": trainable_weights(student.model), "shared_base": shared}
    return result


def prepare(
    run: Run, student: LoadedModel, teacher: LoadedModel | None, shared: bool = False
) -> tuple[Trainer, dict[str, Any], dict[str, list[int]]]:
    """The trainer of a run with these models, what became of the rows of each data section (data.json), and the
    questions of those that are trained on (`questions_of`).

    `teacher`: as `load_teacher` gives it; `shared`: it is the student without its adapter. Raises TutelageError when
    student, teacher and data do not fit together.
    """
    training = run.training
    assert training is not None
    if teacher is not None:
        check_pair(run, student, teacher)
    sections = {name: encoded(run, name, student, training.max_length, teacher) for name in run.data}
    # Of the stages' own config nothing changes: the fingerprint is the recipe's.
    readable = training.model_copy(update={"max_length": readable_length(training.max_length, student, teacher)})
    run = dataclasses.replace(run, training=readable)
    reports: dict[str, Any] = {name: section.report for name, section in sections.items()}
    validation = sections[training.validation].sequences if training.validation else []
    names = [run.config.data] if isinstance(run.config.data, str) else list(run.config.data)
    examples = _concatenated([sections[name] for name in names])
    asked = _asked(examples, Joined([sections[name].conversations for name in names]))
    if isinstance(run.config, SeqkdStage):
        examples, reports["answers"] = _with_answers(run, student, examples, names, sections)
    taught_by = None
    if teacher is not None:
        taught_by = teacher_of(run, student, teacher, shared, [section.sequences for section in sections.values()])
    job = _job(run, student, teacher, taught_by, examples, validation)
    questions = {name: questions_of(sections[name].conversations) for name in names}
    return Trainer(dataclasses.replace(job, asked=asked)), reports, questions


def _endless_replies(run: Run) -> str | None:
    """A line that says so when, at the end of training, the student's own replies hardly ever end.

    Such replies hold no end to learn from, and a bounded divergence hardly raises a token that the student gives next
    to no probability: a student that loses its ends, by too large a learning rate say, may not find them again.
    """
    lines = read_metrics(run.folder / run_folder.METRICS)
    shares = [line["sampled_cut"] for line in lines if line.get("sampled_cut") is not None]
    last = shares[-max(_LAST_STEPS, len(shares) // 10) :]
    if len(last) < _LAST_STEPS or sum(last) < _ENDLESS * len(last):
        return None
    return (
        f"{run.stage} (seed {run.seed}): the student no longer ends its replies: in the last {len(last)} steps "
        f"{sum(last) / len(last):.0%} of them ran to sampling.max_new_tokens ({shares[0]:.0%} in the first step): "
        "take a smaller learning_rate, or a larger limit if the right answers are that long"
    )


def _teacher_precision(run: Run, trainer: Trainer, loaded: LoadedModel | None) -> dict[str, Any] | None:
    """What a quantised teacher costs, measured once and said: entries of the result; None for any other teacher."""
    teacher, config = trainer.job.teacher, run.models.get("teacher")
    if teacher is None or loaded is None or config is None or config.precision is None:
        return None
    batch = trainer.first_batch()
    if trainer.rank != 0:
        return None
    file = run.folder / PRECISION
    if not file.is_file():
        job = trainer.job
        end = job.student.template.end_of_turn_id
        cost = precision_cost(teacher, loaded, config, trainer.loss_of, end, batch, job.objective)
        said = f"{run.stage}: {cost.text}"
        warning = f"{said}: the student learns the rounding too, so take a more precise teacher"
        tell(warning if cost.too_much else said, cause=cause_of(said))
        found = {**dataclasses.asdict(cost), "share": cost.share, "text": cost.text}
        notices = [warning] if cost.too_much else []
        run_folder.write_json(run.folder, PRECISION, {"teacher_precision": found, "notices": notices})
    return run_folder.read_json(run.folder, PRECISION)


def _join_ranks(run: Run) -> bool:
    """Whether there are several ranks to shard over; if so, joins their process group."""
    if not many_ranks():
        tell("`shard: true` does nothing on one rank: --gpus-per-run sets how many", run.stage)
        return False
    from accelerate import PartialState

    PartialState(cpu=run.device == "cpu")
    return True


def _concatenated(parts: list[Encoded]) -> Sequence[TokenSequence]:
    """The sequences of all sections, with indices that differ: they key the draw of λ (`training/on_policy.py`)."""
    # Not of the sequences: rows that are too long keep their index.
    offsets = list(accumulate((len(part.conversations) for part in parts[:-1]), initial=0))
    joined = JoinedSequences([part.sequences for part in parts], offsets)
    return joined if any(isinstance(part.sequences, StoredSequences) for part in parts) else list(joined)


def _asked(examples: Sequence[TokenSequence], rows: Sequence[Conversation]) -> Asked | None:
    """Of the first examples with one question and one answer, as text, the longest that fits into a line of a terminal,
    else the shortest; None if there is none."""
    single: list[Asked] = []
    for example in examples[:_CANDIDATES]:
        roles = [message.role for message in rows[example.index].messages]
        if roles[-2:] == ["user", "assistant"] and roles.count("user") == 1:
            question, answer = rows[example.index].messages[-2:]
            prompt = tuple(example.ids[: example.prompt_length].tolist())
            single.append(Asked(prompt, question.content, answer.content))
    short = [one for one in single if len(one.question) <= _LINE]
    if short:
        return max(short, key=lambda one: len(one.question))
    return min(single, key=lambda one: len(one.question), default=None)


def _with_answers(
    run: Run, student: LoadedModel, examples: Sequence[TokenSequence], names: list[str], sections: dict[str, Encoded]
) -> tuple[list[TokenSequence], dict[str, Any]]:
    """The examples (of the sections `names`, in turn) with the teacher's answers in place of their own, and counts."""
    from transformers import AutoTokenizer

    (parent,) = (p for p in run.parents if p.kind == "answers")
    answers = read_answers(parent.folder)
    result = run_folder.read_json(parent.folder, run_folder.RESULT)
    ends, dropped, unanswered = result["teacher_ends"], 0, set[int]()
    config = parent.models["teacher"]
    teacher = AutoTokenizer.from_pretrained(parent.folder / "tokenizer", trust_remote_code=config.trust_remote_code)
    conversations: list[Conversation] = []
    offsets: dict[str, int] = {}  # answers are numbered through the parent's sections, each section once
    for name in parent.data:
        offsets[name] = len(conversations)
        conversations += sections[name].conversations
    rows = [offsets[name] + sequence.index for name in names for sequence in sections[name].sequences]
    try:
        check_vocabularies(teacher, student.tokenizer)
    except TutelageError:
        tell("the teacher has another tokenizer: its answers are decoded to text and encoded again", run.stage)
        written, ends = answers, [student.template.end_of_turn_id]
        answers = retokenise(written, student.template, conversations)
        dropped = len(written) - len(answers)
        unanswered = {answer.row for answer in written} - {answer.row for answer in answers}
        if dropped:
            tell(f"{dropped} of {len(written)} answers are empty or bytes that are no text: left out", run.stage)
    else:
        template = ChatTemplate(teacher, config.chat_template, ends, config.thinking)
        if not same_rendering(student.template, template):
            opens = begun_thought(template.render([Message("user", "?")], add_generation_prompt=True)) is not None
            tell(
                "teacher and student have different chat templates: the student learns, after its own prompts, what "
                f"the teacher wrote after prompts in its own{', with the thought that they open' if opens else ''}",
                run.stage,
            )
    assert run.training is not None
    length = run.training.max_length
    asked = [(example, row) for example, row in zip(examples, rows, strict=True) if row not in unanswered]
    if not asked:
        raise TutelageError(f"{run.stage}: the teacher's answers are all empty or no text: choose another teacher")
    examples, rows = [example for example, _ in asked], [row for _, row in asked]
    out, left_out = answer_examples(examples, rows, conversations, answers, student.template, ends, length)
    if not out:
        raise TutelageError(
            f"{run.stage}: no question fits: raise `training.max_length` ({length}) or use shorter rows"
        )
    return out, {
        "samples": sum(int(s.weight) for s in out),
        "distinct": len(out),
        "cut": sum(s.cut for s in out),
        "too_long": left_out,
        "dropped": dropped,
        "unanswered": [conversations[row].source for row in sorted(unanswered)],
    }


def _job(
    run: Run,
    student: LoadedModel,
    teacher: LoadedModel | None,
    taught_by: Teacher | None,
    examples: Sequence[TokenSequence],
    validation: Sequence[TokenSequence],
) -> Job:
    stage, training = run.config, run.training
    assert training is not None
    objective: Objective = CrossEntropy()
    rollouts, sampler = None, None
    if isinstance(stage, DistillStage | MethodStage):
        known = None if teacher is None else embedding_rows(teacher.model)
        context = None if teacher is None else teacher.context
        rollouts = RolloutPlan(stage.on_policy, stage.sampling, run.seed, training.max_length, known, context)
        if stage.on_policy > 0.0:
            # An adapter is sampled from as it is trained: a copy would hold the frozen weights twice.
            whole = run.device == "cuda" and training.precision != "float32" and run.lora is None
            half = torch.bfloat16 if whole else None
            sampler = make_sampler(student, stage.sampling, dtype=half, longest=training.max_length, training=True)
    if isinstance(stage, DistillStage):
        beta = {"forward_kl": 0.0, "reverse_kl": 1.0}.get(stage.divergence, stage.beta)
        objective = Divergence(beta, stage.temperature)
    job = Job(
        student=student,
        teacher=taught_by,
        objective=objective,
        examples=examples,
        validation=validation,
        rollouts=rollouts,
        sampler=sampler,
        config=training,
        seed=run.seed,
        folder=run.folder,
        fingerprint=run.fingerprint,
        title=f"{run.stage} (seed {run.seed})",
        ce_weight=stage.ce_weight if isinstance(stage, DistillStage) else 0.0,
    )
    if not isinstance(stage, MethodStage):
        return job
    try:
        return METHODS[stage.method](job, stage.options)
    except TypeError as error:
        if "argument" not in str(error):
            raise
        # the method lacks this option, or needs one that is not given
        raise TutelageError(f"`options` of method `{stage.method}`: {error}; see docs/method.md") from error
