"""A served teacher gives the run of a local one, whatever happens to it on the way, or one clear line."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from aiohttp import web
from chat_templates import CHATML, tokenizer
from recipes_fixture import Workshop, save_tiny
from teacher_servers import Served, serving
from waiting import HANG, wait_for

from tutelage.common.errors import TutelageError
from tutelage.models.files import model_fingerprint
from tutelage.models.load import load_model
from tutelage.recipe.sections import ModelConfig
from tutelage.runs.preflight.teacher import teacher_problems
from tutelage.runs.run import Run
from tutelage.teachers import patience, wire
from tutelage.teachers.asked import AskedTeacher
from tutelage.teachers.local import LocalSource, LocalTeacher
from tutelage.teachers.patience import PatientClient
from tutelage.teachers.protocol import Question, question_of
from tutelage.teachers.served import ServedSource
from tutelage.teachers.server import TeacherServer, load_server, refuse_open, serve

Distil = Callable[..., Any]


def source(served: Served, folder: Path, wait: float = 20.0, precision: str = "float32") -> ServedSource:
    path = str(folder / "teacher")
    return ServedSource(served.url, path, model_fingerprint(ModelConfig(path=path)), precision, wait)


QUESTION = Question(torch.tensor([5, 6, 7, 8, 9, 10, 11]), (4, 3), torch.tensor([1, 2, 4]))


@pytest.mark.slow
@pytest.mark.parametrize("on_policy", [0.0, 0.5, 1.0])
def test_it_gives_the_run_of_a_local_teacher(distil: Distil, served: Served, on_policy: float) -> None:
    local, asked = distil("local", on_policy), distil("asked", on_policy, signal={"served": served.url})
    asked.equals(local)
    assert served.asked > 3
    assert asked.run.fingerprint == local.run.fingerprint


@pytest.mark.slow
def test_with_validation_padding_and_another_template(distil: Distil, served: Served, workshop: Workshop) -> None:
    other = workshop.models / "llama-like"
    changed = tokenizer(CHATML.replace("<|im_start|>", "<|im_start|> "))
    save_tiny(other, layers=3, seed=5, tokens=changed)
    changes = {"teacher__path": str(other), "teacher__attention": "padded", "student__attention": "padded"}
    training = {"max_steps": 2, "validation": "test", "evaluate_every": 1}
    local = distil("local", 0.5, changes, training=training)
    there = serving(str(other))  # packed: how a teacher reads is its own matter
    try:
        distil("asked", 0.5, changes, training=training, signal={"served": there.url}).equals(local, 1e-5)
    finally:
        there.stop()


@pytest.mark.slow
def test_killed_and_started_again_in_the_middle_it_loses_nothing(
    distil: Distil, python: str, workshop: Workshop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The real command, killed twice while the student waits for an answer."""
    monkeypatch.setattr(patience, "LONGEST_DELAY", 0.2)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    path = str(workshop.models / "teacher")
    command = f"from tutelage.cli.main import main; main(['serve-teacher', {path!r}, "
    program = [python, "-c", command + f"'--port', '{port}', '--device', 'cpu'])"]
    processes = [subprocess.Popen(program, stdout=subprocess.PIPE, text=True)]
    real, asked = ServedSource.answer, [0]

    def answer(self: ServedSource, question: Question) -> torch.Tensor:
        asked[0] += 1
        if asked[0] in (2, 5):
            processes[-1].kill()
            processes[-1].wait()
            processes.append(subprocess.Popen(program, stdout=subprocess.PIPE, text=True))
        return real(self, question)

    signal = {"served": f"http://127.0.0.1:{port}", "wait": HANG}
    try:
        unbroken = distil("unbroken", signal=signal)
        monkeypatch.setattr(ServedSource, "answer", answer)
        distil("asked", signal=signal).equals(unbroken, 0.0)
        assert processes[0].stdout is not None
        said = processes[0].stdout.read()
        assert said.startswith(f"serving {path} in float32 at http")
        assert f" in float32 at http://127.0.0.1:{port} (" in said
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert len(processes) == 3
    lines = [line for line in capsys.readouterr().out.splitlines() if "asked again" in line]
    assert lines
    assert all(line.startswith(f"the served teacher at http://127.0.0.1:{port}: no connection (") for line in lines)


@pytest.mark.slow
def test_a_slow_one_and_one_that_fails_now_and_then(distil: Distil, served: Served) -> None:
    unbroken = distil("unbroken", signal={"served": served.url})
    served.asked = 0

    async def slow(_: web.Request) -> None:
        await asyncio.sleep(0.4)

    served.misbehave = {1: slow, 2: slow, 3: lambda _: web.Response(status=503, text="busy"), 4: slow}
    distil("asked", signal={"served": served.url}).equals(unbroken, 0.0)


def test_what_is_expected_is_asked_for_before_it_is_wanted(served: Served, tiny_models: Path) -> None:
    from tutelage.data.batch import make_micro_batch

    teacher = AskedTeacher(source(served, tiny_models), torch.device("cpu"), 2, 2)
    local = LocalTeacher(load_model(ModelConfig(path=str(tiny_models / "teacher"))))
    rows = tiny.sequences((9, 8, 7, 6, 5))
    teacher.expect(rows[:3], 17)
    wait_for(lambda: served.asked == 2, "two questions, of 9 + 8 and of 7 tokens")
    batches = [make_micro_batch(part, [1.0] * len(part), False) for part in (rows[:2], rows[2:4], rows[4:])]
    for batch, signal in zip(batches, teacher.signals(batches), strict=True):
        torch.testing.assert_close(signal.hidden, local.signal(batch).hidden)  # type: ignore[union-attr]
    assert served.asked == 4  # the fourth and the fifth row
    teacher.expect(rows[:1], 17)
    batch = make_micro_batch(rows[3:], [1.0] * 2, False)
    torch.testing.assert_close(teacher.signal(batch).hidden, local.signal(batch).hidden)  # type: ignore[union-attr]


def test_students_ask_ahead(served: Served, tiny_models: Path) -> None:
    """While one answer is used, the next two are on their way."""
    from tutelage.data.batch import make_micro_batch

    path = str(tiny_models / "teacher")
    teacher = AskedTeacher(source(served, tiny_models), torch.device("cpu"), 2, 2)
    local = LocalTeacher(load_model(ModelConfig(path=path)))
    batches = [make_micro_batch([one], [1.0], False) for one in tiny.sequences((9, 8, 7, 6, 5))]
    signals = teacher.signals(batches)
    for number, batch in enumerate(batches):
        wait = threading.Event()
        while served.asked < min(5, number + 2):
            assert not wait.wait(0.01)
        torch.testing.assert_close(next(signals).hidden, local.signal(batch).hidden)  # type: ignore[union-attr]
    assert served.asked == 5


@pytest.mark.parametrize("tie", [True, False])
def test_ends_of_turn_are_exchanged_as_in_weights(tmp_path: Path, tie: bool) -> None:
    from tutelage.data.batch import make_micro_batch

    tokens = tokenizer(CHATML)
    model = tiny.llama(vocab=len(tokens), tie=tie, packed=False)
    model.save_pretrained(tmp_path / "teacher")
    tokens.save_pretrained(tmp_path / "teacher")
    loaded = load_model(ModelConfig(path=str(tmp_path / "teacher")))
    own, other = loaded.template.end_of_turn_id, 7
    sequence = tiny.sequences((12,))[0]
    sequence.ids[[5, 11]], sequence.ids[8] = other, own
    batch = make_micro_batch([sequence], [1.0], False)
    asked = AskedTeacher(LocalSource(loaded), torch.device("cpu"), other, own).signal(batch)
    local = LocalTeacher(loaded, other).signal(batch)
    torch.testing.assert_close(asked.hidden @ asked.head.weight.t(), local.hidden @ local.head.weight.t())  # type: ignore[union-attr]


def test_another_teacher_is_refused_in_one_line_before_and_during_a_run(
    distil: Distil, served: Served, workshop: Workshop, tiny_models: Path
) -> None:
    twin = workshop.models / "twin"  # the same weights with another tokenizer
    save_tiny(twin, layers=4, seed=1)
    file = twin / "tokenizer.json"
    file.write_text(file.read_text().replace('"a":', '"?":', 1).replace('"b":', '"a":', 1).replace('"?":', '"b":', 1))
    config = ModelConfig(path=str(twin))
    other = TeacherServer(load_model(config), model_fingerprint(config))
    asked = source(served, tiny_models)
    asked.answer(QUESTION)
    served.stop()
    served.make = other.app
    served.start()
    with pytest.raises(TutelageError, match=r"has other weights or another tokenizer or template than .*: serve that"):
        asked.answer(QUESTION)
    with pytest.raises(TutelageError, match=r"\(`.*twin`\) than the recipe's teacher `.*/teacher` \(") as error:
        distil("again", signal={"served": served.url})
    assert "\n" not in str(error.value)


BAD = {
    "a page": (
        lambda _: web.Response(text="<html>", content_type="text/html"),
        "answers with text/html.* instead of tensors",
    ),
    "empty": (lambda _: answer(b""), "damaged answer: no tensors in a body of 0 bytes"),
    "cut": (lambda _: answer(wire.pack(hidden=torch.ones(3, 32))[:-7]), "damaged answer: no tensors in a body of"),
    "too few": (lambda _: answer(wire.pack(hidden=torch.ones(2, 32))), r"float32 \[2, 32\] as `hidden` where"),
    "half": (lambda _: answer(wire.pack(hidden=torch.ones(3, 32).bfloat16())), r"bfloat16 \[3, 32\] as `hidden`"),
    "another name": (lambda _: answer(wire.pack(states=torch.ones(3, 32))), "nothing as `hidden`"),
    "not finite": (lambda _: answer(wire.pack(hidden=torch.full((3, 32), torch.nan))), "that are not finite"),
    "no fingerprint": (
        lambda _: web.Response(body=wire.pack(hidden=torch.ones(3, 32)), content_type=wire.TENSORS),
        "has other weights",
    ),
    "refusal": (lambda _: web.Response(status=400, text="too long"), r"refuses \(status 400\): too long"),
}
FINGERPRINT = ""


def answer(body: bytes) -> web.Response:
    return web.Response(body=body, content_type=wire.TENSORS, headers={wire.FINGERPRINT_HEADER: FINGERPRINT})


@pytest.mark.parametrize("kind", BAD)
def test_garbage_is_one_line(served: Served, tiny_models: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = source(served, tiny_models)
    monkeypatch.setitem(globals(), "FINGERPRINT", asked.fingerprint)
    act, message = BAD[kind]
    served.misbehave = {0: act}
    with pytest.raises(TutelageError, match=message) as error:
        asked.answer(QUESTION)
    assert str(error.value).startswith(f"the served teacher at {served.url}: ")
    assert "\n" not in str(error.value)


def test_an_address_of_something_else(served: Served, tiny_models: Path) -> None:
    async def hello(_: web.Request) -> web.Response:
        return web.json_response(["hello"])

    def other() -> web.Application:
        app = web.Application()
        app.router.add_get("/teacher", hello)
        return app

    there = Served(other)
    try:
        with pytest.raises(TutelageError, match="does not answer as `tutelage serve-teacher` does"):
            source(there, tiny_models)
    finally:
        there.stop()
    with pytest.raises(TutelageError, match=r"computes in float32, and this run's teacher in bfloat16: start it with"):
        source(served, tiny_models, precision="bfloat16")


def test_one_that_never_comes_is_one_line_after_the_time_limit(served: Served, tiny_models: Path) -> None:
    served.stop()
    try:
        with pytest.raises(TutelageError, match=r"no connection \(.*\), for 0.3 s: start it \(tutelage serve-teacher"):
            source(served, tiny_models, wait=0.3)
    finally:
        served.start()


def test_before_the_first_run_it_is_looked_for(plan: Callable[..., Run], served: Served, workshop: Workshop) -> None:
    run = plan(signal={"served": served.url})
    assert list(teacher_problems([run, plan()])) == []
    (wrong,) = teacher_problems(
        [plan("more", 0.5, {"teacher__path": str(workshop.models / "student")}, **stage_at(served))]
    )
    assert wrong.stops
    assert "stage `gkd`: the served teacher at " in wrong.text
    served.stop()
    try:
        (away,) = teacher_problems([run])
        assert not away.stops
        assert away.text.endswith("then the same command goes on; the stage waits 600 s for it")
        sft = {"name": "t", "kind": "sft", "student": "teacher", "data": "train"}
        gkd = {"name": "gkd", "kind": "distill", "student": "base", "data": "train", "teacher": "t"}
        later = plan("later", 0.5, {"stages": [sft, gkd | stage_at(served)]})
        assert list(teacher_problems([later])) == []
    finally:
        served.start()


def stage_at(served: Served) -> dict[str, Any]:
    return {"signal": {"served": served.url}}


def test_a_template_of_the_recipe_needs_none_at_the_server(
    plan: Callable[..., Run], served: Served, workshop: Workshop
) -> None:
    template = workshop.folder / "own.jinja"
    template.write_text(CHATML)
    changes = {"teacher__chat_template": str(template), "teacher__tokenizer": str(workshop.models / "student")}
    assert list(teacher_problems([plan(changes=changes, signal={"served": served.url})])) == []


@pytest.mark.parametrize("name", ["chat_template.jinja", "tokenizer_config.json", "tokenizer.json"])
def test_a_template_or_tokenizer_that_changed_beside_the_weights_is_another_teacher(
    tiny_models: Path, tmp_path: Path, name: str
) -> None:
    folder = Path(shutil.copytree(tiny_models / "teacher", tmp_path / "teacher"))
    served = serving(str(folder))
    try:
        source(served, tmp_path)
        with (folder / name).open("a") as file:
            file.write("\n")
        with pytest.raises(TutelageError, match=r"another tokenizer or template .* \(again, if its files changed\)$"):
            source(served, tmp_path)
    finally:
        served.stop()


def test_a_token_is_asked_for_and_never_shown(
    tiny_models: Path, served: Served, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(wire.TOKEN_VARIABLE, "secret-0123456789")
    closed = serving(str(tiny_models / "teacher"))
    try:
        asked = source(closed, tiny_models)
        assert torch.equal(asked.answer(QUESTION), source(served, tiny_models).answer(QUESTION))
        closed.misbehave = {1: lambda _: web.Response(status=400, text="secret-0123456789 is bad")}
        with pytest.raises(TutelageError, match=r"\[token\] is bad$"):
            asked.answer(QUESTION)
        monkeypatch.setenv(wire.TOKEN_VARIABLE, "wrong")
        with pytest.raises(TutelageError, match=r"wants a token, and \$TUTELAGE_TEACHER_TOKEN is refused"):
            source(closed, tiny_models)
        monkeypatch.delenv(wire.TOKEN_VARIABLE)
        with pytest.raises(TutelageError, match=r"\$TUTELAGE_TEACHER_TOKEN is not set: export"):
            source(closed, tiny_models)
        with pytest.raises(TutelageError, match=r"--host 0.0.0.0 is open to other machines"):
            refuse_open("0.0.0.0")
    finally:
        closed.stop()
    assert "secret" not in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": torch.tensor([5, 6, 7, 8, 9, 10, 9999], dtype=torch.int32)}, r"a token id is not in \[0, "),
        ({"lengths": torch.tensor([4, 4], dtype=torch.int32)}, "`lengths` are not those"),
        ({"predict": torch.tensor([1, 3], dtype=torch.int32)}, "has no next token"),
        ({"predict": torch.tensor([2, 1], dtype=torch.int32)}, "not ascending"),
        ({"ids": torch.ones(7)}, "int32 vectors"),
    ],
)
def test_the_server_refuses_questions_that_it_cannot_answer(
    served: Served, change: dict[str, torch.Tensor], message: str
) -> None:
    sent = wire.unpack(wire.pack_question(QUESTION)) | change
    with pytest.raises(ValueError, match=message):
        wire.unpack_question(wire.pack(**sent), 300, None)
    client = PatientClient("the teacher", served.url, "NOTHING", 20.0, "")
    with pytest.raises(TutelageError, match=rf"refuses \(status 400\): .*{message}") as error:
        client.ask("POST", "signal", wire.pack(**sent), wire.TENSORS)
    assert "\n" not in str(error.value)


def test_an_address_that_is_taken_is_one_line(served: Served, tiny_models: Path) -> None:
    made = load_server(ModelConfig(path=str(tiny_models / "teacher")), "cpu", "auto", 100)
    with pytest.raises(
        TutelageError, match=rf"^cannot listen at 127.0.0.1:{served.port} \(.*\): choose another --port$"
    ):
        serve(made, "127.0.0.1", served.port, print)


def test_questions_survive_every_layout() -> None:
    from tutelage.data.batch import make_micro_batch

    sequences = tiny.sequences((9, 6, 14))
    packed, padded = (question_of(make_micro_batch(sequences, [1.0] * 3, pad)) for pad in (False, True))
    for one, other in zip(vars(packed).values(), vars(padded).values(), strict=True):
        assert one == other if isinstance(one, tuple) else torch.equal(one, other)
    assert [part.key() for part in packed.parts()] == [
        question_of(make_micro_batch([one], [1.0], False)).key() for one in sequences
    ]
    again = question_of(packed.batch(padded=True))
    assert (again.key(), len({part.key() for part in packed.parts()})) == (packed.key(), 3)
    moved = question_of(make_micro_batch(sequences, [1.0] * 3, True).to(torch.device("cpu")))
    assert moved.key() == packed.key()


@pytest.mark.parametrize("url", ["localhost:8700", "ftp://x", "http://", "http://me:word@host"])
def test_addresses(url: str) -> None:
    with pytest.raises(TutelageError, match="the teacher's address"):
        PatientClient("the teacher", url, "X", 1.0, "")
