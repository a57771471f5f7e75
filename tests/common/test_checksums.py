"""What was written is read back; what was damaged since is found, whichever bit it is."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.common import run_folder
from tutelage.common.checksums import DamagedError, read_checked, read_one, read_sealed, seal, unseal
from tutelage.common.errors import TutelageError
from tutelage.common.files import alone_in, cached_hash, hash_file, storage_problem
from tutelage.common.metrics_log import MetricsFile, read_metrics

ROWS = [
    {"step": 1, "loss": 0.25},
    {"step": 2, "text": 'a "b" \\ ü\u2028, "checksum": "00000000"}'},
    {"step": 3, "x": None},
]


def written(tmp_path: Path, ascii_only: bool = True) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(seal(row, ascii_only) for row in ROWS), encoding="utf-8")
    return path


@pytest.mark.parametrize("ascii_only", [True, False])
def test_rows_are_read_back_and_are_plain_json(tmp_path: Path, ascii_only: bool):
    path = written(tmp_path, ascii_only)
    assert read_sealed(path) == ROWS
    assert [json.loads(line).keys() for line in path.read_text("utf-8").split("\n")[:-1]] == [
        {*row, "checksum"} for row in ROWS
    ]


@pytest.mark.slow
def test_every_flipped_bit_is_found(tmp_path: Path):
    path = written(tmp_path)
    content = path.read_bytes()
    for place in range(8 * len(content)):
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        rows = read_sealed(path)
        assert len([row for row in rows if row in ROWS]) < len(ROWS), place
        assert all(row is None or row in ROWS for row in rows), place


@pytest.mark.parametrize("length", range(0, 200, 7))
def test_a_cut_file_has_fewer_rows_and_no_other_ones(tmp_path: Path, length: int):
    path = written(tmp_path)
    path.write_bytes(path.read_bytes()[:length])
    found = read_sealed(path)
    assert found == ROWS[: len(found)]


def test_lines_from_before_there_were_checksums(tmp_path: Path):
    path = tmp_path / "old.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert read_sealed(path) == [{"step": 1}, {"step": 2}]
    assert read_sealed(tmp_path / "none.jsonl") == []
    assert read_one(path) is None


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(st.text().filter(lambda key: key != "checksum"), st.text() | st.floats(allow_nan=False), min_size=1)
)
def test_any_row_is_read_back(row: dict):
    assert unseal(seal(row)) == unseal(seal(row, ensure_ascii=False)) == row


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    run_folder.write_json(folder, "config.json", {"kind": "sft"})
    (folder / "model").mkdir()
    (folder / "model" / "weights").write_bytes(bytes(range(256)))
    (folder / "log.txt").write_text("begun\n")
    run_folder.finish(folder, {"kind": "sft", "seconds": 1.0})
    return folder


def test_a_finished_run_is_whole(finished: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "cache"))
    names = ["config.json", "model/weights", "result.json"]
    assert [*json.loads((finished / "checksums.json").read_text())] == names
    (finished / "log.txt").write_text("more\n")
    run_folder.check(finished)
    assert run_folder.read_json(finished, "result.json")["seconds"] == 1.0


@pytest.mark.parametrize("name", ["config.json", "result.json", "model/weights", "checksums.json"])
@pytest.mark.parametrize("way", ["flip", "empty", "remove"])
def test_a_damaged_file_is_refused_by_name(finished: Path, monkeypatch, tmp_path: Path, name: str, way: str):
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "cache"))
    path = finished / name
    content = path.read_bytes()
    path.unlink() if way == "remove" else path.write_bytes(
        b"" if way == "empty" else bytes([content[0] ^ 1]) + content[1:]
    )
    if (name, way) == ("checksums.json", "remove"):  # as before there were checksums
        run_folder.check(finished)
        return
    with pytest.raises(DamagedError, match=rf"{name}.*; restore it, or remove the folder {finished}") as raised:
        run_folder.check(finished)
    assert "\n" not in str(raised.value)
    if name.endswith(".json") and name != "checksums.json":
        with pytest.raises(DamagedError, match=name):
            run_folder.read_json(finished, name)


@pytest.mark.parametrize("content", [b"", b'{"step": 1}\n', None])
def test_metrics_of_a_finished_run_are_whole_or_refused(tmp_path: Path, content: bytes | None):
    path = tmp_path / "metrics.jsonl"
    log = MetricsFile(path)
    log.write({"step": 1})
    log.write({"step": 2})
    run_folder.finish(tmp_path, {"kind": "sft"})
    assert len(read_metrics(path)) == 2
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(DamagedError, match=r"metrics\.jsonl"):
        read_metrics(path)
    (tmp_path / "result.json").unlink()
    run_folder.remove_leftovers(tmp_path)  # as a run begins that was killed between its checksums and its result
    assert len(read_metrics(path)) < 2


def test_a_file_that_may_not_be_read_wants_permission_and_no_other_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "calls.csv"
    file.touch()
    monkeypatch.setattr("os.access", lambda *_: False)
    said = storage_problem(PermissionError(errno.EACCES, "Permission denied", str(file)))
    assert said == f"{file}: Permission denied; give read permission to it (chmod +r)"


def test_without_checksums_broken_json_is_still_one_line(tmp_path: Path):
    (tmp_path / "data.json").write_text('{"rows": ')
    assert read_checked(tmp_path, "data.json") == b'{"rows": '
    with pytest.raises(DamagedError, match=r"data\.json is damaged"):
        run_folder.read_json(tmp_path, "data.json")


def test_leftovers_of_a_killed_process_are_removed(finished: Path):
    (finished / ".model-x").mkdir()
    (finished / ".model-x" / "weights").write_text("half")
    (finished / "accepted").mkdir()
    (finished / "accepted" / ".00001.jsonl.abc.partial").write_text("half")
    run_folder.remove_leftovers(finished)
    assert not list(finished.rglob(".*"))
    assert (finished / "model" / "weights").is_file()


def test_a_damaged_cached_hash_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "weights"
    path.write_text("weights")
    right = cached_hash(path)
    (kept,) = (tmp_path / "cache" / "hashes").iterdir()
    for content in ("", "0" * 64, kept.read_text().replace(right[0], "0" if right[0] != "0" else "1", 1), right[:9]):
        kept.write_text(content)
        assert cached_hash(path) == right == hash_file(path)


def test_what_a_disk_says_is_told_in_one_line():
    def told(error: BaseException) -> str:
        return storage_problem(error) or ""

    assert told(OSError(28, "No space left on device", "/a/b")).startswith("/a/b: no space is left on the disk; free")
    assert told(RuntimeError("I/O error: No space left on device (os error 28)")).startswith("no space is left")
    wrapped = RuntimeError("while saving")
    wrapped.__cause__ = OSError(30, "Read-only file system")
    assert told(wrapped).startswith("Read-only file system; mend that")
    assert told(RuntimeError("[enforce fail] . PytorchStreamWriter failed writing file data/0")).startswith("no space")
    assert told(NotADirectoryError(20, "Not a directory", "/a/b")) == (
        "/a/b: Not a directory; choose another folder, then the same command goes on"
    )
    assert storage_problem(FileNotFoundError(2, "No such file")) is storage_problem(ValueError("28")) is None


def test_a_folder_has_one_writer(tmp_path: Path):
    with (
        alone_in(tmp_path / "scores"),
        pytest.raises(TutelageError, match=r"another process is writing to .*scores: wait"),
        alone_in(tmp_path / "scores"),
    ):
        raise AssertionError
    with alone_in(tmp_path / "scores") as folder:
        assert folder.is_dir()


def test_what_is_to_be_removed_is_said_once(tmp_path: Path) -> None:
    with pytest.raises(DamagedError) as caught:
        run_folder.read_json(tmp_path, "config.json")
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'config.json'} cannot be read (No such file or directory); restore it, or")
    assert message.count("or remove the folder") == message.count("; ") == 1
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(
        DamagedError, match=r"config\.json is damaged \(.*\); remove that file and run the same command"
    ):
        run_folder.read_json(tmp_path, "config.json")
