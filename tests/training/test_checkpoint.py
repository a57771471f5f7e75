"""Checkpoints appear complete or not at all, and belong to one run."""

from __future__ import annotations

import errno
import json
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import tiny
import torch

from tutelage.common.errors import TutelageError
from tutelage.common.metrics_log import MetricsFile
from tutelage.training.checkpoint import latest_checkpoint, load_checkpoint, remove_checkpoints, save_checkpoint

Usage = namedtuple("Usage", "total used free")


def trained(steps: int = 2, seed: int = 0, tie: bool = True):
    """A model and its AdamW after some steps on random tokens."""
    model = tiny.llama(seed=seed, tie=tie, packed=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True)
    for i in range(steps):
        ids = torch.randint(0, 97, (2, 9), generator=torch.Generator().manual_seed(i))
        model(ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def moments(model, optimizer) -> list[torch.Tensor]:
    return [optimizer.state[p][key] for p in model.parameters() for key in ("exp_avg", "exp_avg_sq", "step")]


@pytest.mark.parametrize("tie", [True, False])
def test_a_checkpoint_restores_everything(tmp_path: Path, tie: bool):
    model, optimizer = trained(tie=tie)
    torch.manual_seed(11)
    save_checkpoint(tmp_path, 2, model, optimizer, "run")
    expected = torch.rand(3)
    torch.manual_seed(12)
    other, fresh = trained(steps=0, seed=5, tie=tie)
    found = latest_checkpoint(tmp_path, "run")
    assert found == (tmp_path / "checkpoint-00000002", 2)
    load_checkpoint(found[0], other, fresh)
    assert torch.equal(torch.rand(3), expected)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(moments(model, optimizer), moments(other, fresh), strict=True):
        assert torch.equal(a, b)
    assert float(moments(other, fresh)[2]) == 2.0
    assert (other.lm_head.weight is other.model.embed_tokens.weight) == tie


def test_only_the_newest_is_kept(tmp_path: Path):
    model, optimizer = trained(1)
    for step in (2, 4, 10):
        save_checkpoint(tmp_path, step, model, optimizer, "run")
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-00000010"]
    remove_checkpoints(tmp_path)
    assert latest_checkpoint(tmp_path, "run") is None


def test_ranks_without_write_write_nothing(tmp_path: Path):
    save_checkpoint(tmp_path / "x", 2, *trained(1), "run", write=False)
    assert not (tmp_path / "x").exists()


def test_a_partial_folder_is_ignored_and_overwritten(tmp_path: Path):
    model, optimizer = trained(1)
    save_checkpoint(tmp_path, 2, model, optimizer, "run")
    partial = tmp_path / ".checkpoint-00000004"
    partial.mkdir()
    (partial / "state.pt").write_bytes(b"PK half")
    (partial / "junk").write_text("")
    assert latest_checkpoint(tmp_path, "run") == (tmp_path / "checkpoint-00000002", 2)
    save_checkpoint(tmp_path, 4, model, optimizer, "run")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["checkpoint-00000004", "state.pt", "step.json"]
    load_checkpoint(tmp_path / "checkpoint-00000004", model, optimizer)


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path):
    save_checkpoint(tmp_path, 2, *trained(1), "run")
    with pytest.raises(
        TutelageError, match=r"checkpoint-00000002 belongs to .*fingerprint run, this run is b\): delete"
    ) as e:
        latest_checkpoint(tmp_path, "b")
    assert "\n" not in str(e.value)
    assert latest_checkpoint(tmp_path / "nowhere", "b") is None


def assert_step_2_is_kept(tmp_path: Path) -> None:
    """The checkpoint of step 2 is complete, and there is nothing else."""
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-00000002"]
    model, optimizer = trained(0, seed=4)
    load_checkpoint(tmp_path / "checkpoint-00000002", model, optimizer)
    for a, b in zip(trained(1)[0].parameters(), model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_full_disk_is_a_one_line_error_and_the_previous_checkpoint_is_kept(tmp_path: Path, monkeypatch):
    save_checkpoint(tmp_path, 2, *trained(1), "run")
    size = (tmp_path / "checkpoint-00000002" / "state.pt").stat().st_size
    for free in (0, size // 2):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: Usage(10**9, 0, free))
        with pytest.raises(TutelageError, match=r"no room for a checkpoint in .*: it needs .* GiB.*goes on") as caught:
            save_checkpoint(tmp_path, 4, *trained(2), "run")
        assert "\n" not in str(caught.value)
        assert_step_2_is_kept(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 0, 2 * size))
    save_checkpoint(tmp_path, 4, *trained(2), "run")
    assert latest_checkpoint(tmp_path, "run") == (tmp_path / "checkpoint-00000004", 4)


@pytest.mark.parametrize("wrapped", [False, True], ids=["OSError", "the zip writer's RuntimeError"])
def test_a_disk_that_fills_up_while_writing(tmp_path: Path, monkeypatch, wrapped: bool):
    save_checkpoint(tmp_path, 2, *trained(1), "run")

    def full(_, path: Path):
        path.write_bytes(b"PK half")
        error = OSError(errno.ENOSPC, "No space left on device")
        if wrapped:
            raise RuntimeError("[enforce fail at inline_container.cc:668] . unexpected pos 64 vs 0") from error
        raise error

    monkeypatch.setattr(torch, "save", full)
    if wrapped:  # torch's writer hides the reason, so the free space decides
        monkeypatch.setattr(shutil, "disk_usage", fills_up())
    with pytest.raises(TutelageError, match=r"^no checkpoint can be written in .*: no space is left") as caught:
        save_checkpoint(tmp_path, 4, *trained(2), "run")
    assert "\n" not in str(caught.value)
    assert_step_2_is_kept(tmp_path)


def fills_up():
    """Free space at the first call, none at the next."""
    free = iter([10**9, 0, 0])
    return lambda _: Usage(10**9, 0, next(free))


def test_other_errors_of_the_disk_are_one_line_and_leave_no_partial_folder(tmp_path: Path, monkeypatch):
    save_checkpoint(tmp_path, 2, *trained(1), "run")

    def refused(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(torch, "save", refused)
    with pytest.raises(TutelageError, match=r"^no checkpoint can be written in .*: Permission denied; mend that"):
        save_checkpoint(tmp_path, 4, *trained(2), "run")
    assert_step_2_is_kept(tmp_path)


def test_loading_runs_no_code(tmp_path: Path):
    folder = tmp_path / "checkpoint-00000002"
    folder.mkdir()
    (folder / "step.json").write_text(json.dumps({"step": 2, "run": "run"}))
    torch.save({"model": Path("x")}, folder / "state.pt")  # any object that is not plain data
    with pytest.raises(Exception, match=r"weights_only|WeightsUnpickler|Unsupported"):
        load_checkpoint(folder, *trained(0))


@pytest.mark.parametrize("name", ["state.pt", "step.json", "metrics.jsonl"])
@pytest.mark.parametrize("place", [0.1, 0.3, 0.6, 0.9])
def test_a_damaged_checkpoint_is_named_and_passed_over(tmp_path: Path, capsys, name: str, place: float):
    folder = tmp_path / "checkpoints"
    log = MetricsFile(tmp_path / "metrics.jsonl")
    for step in (1, 2):
        log.write({"step": step, "loss": 0.5})
    save_checkpoint(folder, 2, *trained(1), "run")
    path = folder / "checkpoint-00000002" / name
    content = bytearray(path.read_bytes())
    for damaged in (content[: int(place * len(content))], flipped(content, int(place * len(content)))):
        path.write_bytes(damaged)
        assert latest_checkpoint(folder, "run") is None
        assert capsys.readouterr().out == f"{path.parent} is not used, since its {name} is damaged\n"
    save_checkpoint(folder, 2, *trained(2), "run")  # in its place
    assert latest_checkpoint(folder, "run") == (path.parent, 2)


def flipped(content: bytearray, place: int) -> bytes:
    return bytes([*content[:place], content[place] ^ 4, *content[place + 1 :]])


@pytest.mark.parametrize("name", ["metrics.jsonl", "samples.jsonl"])
def test_metrics_and_samples_come_back_with_the_checkpoint(tmp_path: Path, name: str):
    metrics = tmp_path / name
    log = MetricsFile(metrics)
    log.write({"step": 1, "loss": 0.5})
    log.write({"step": 2, "loss": 0.25})
    save_checkpoint(tmp_path / "checkpoints", 2, *trained(1), "run")
    whole = metrics.read_bytes()
    log.write({"step": 3, "loss": 0.125})
    metrics.write_bytes(whole[:20])
    load_checkpoint(tmp_path / "checkpoints" / "checkpoint-00000002", *trained(0))
    assert metrics.read_bytes() == whole
