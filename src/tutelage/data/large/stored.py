"""Conversations and token sequences in Arrow files that are mapped into memory, so that all processes share them.

The files are streams as the `datasets` library writes them (`Dataset.from_file` opens one). An element becomes an
object when it is asked for, equal to the one that was written.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
import torch
from torch import Tensor

from tutelage.common.errors import TutelageError
from tutelage.common.types import Conversation, Message, TokenSequence
from tutelage.data.large.kept import about

T = TypeVar("T")
_BATCH = 1000  # rows of an Arrow batch
_SURROGATES = "surrogatepass"  # JSON may contain half a character


class _Lazy(Sequence[T]):
    """A sequence whose elements are made when they are asked for."""

    def element(self, place: int) -> T:
        """The element at a place from 0."""
        raise NotImplementedError

    @overload
    def __getitem__(self, place: int) -> T: ...
    @overload
    def __getitem__(self, place: slice) -> list[T]: ...
    def __getitem__(self, place: int | slice) -> T | list[T]:
        if isinstance(place, slice):
            return [self.element(i) for i in range(*place.indices(len(self)))]
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        return self.element(place % len(self))

    def __iter__(self) -> Iterator[T]:
        return map(self.element, range(len(self)))


class _Arrow:
    """The rows of Arrow files, one after the other."""

    def __init__(self, files: Sequence[Path]) -> None:
        import pyarrow as pa

        try:
            self.batches = [batch for file in files for batch in pa.ipc.open_stream(pa.memory_map(str(file)))]
        except (pa.ArrowException, OSError) as error:
            raise TutelageError(
                f"{error}: remove the folder {files[0].parent} of the cache, then the same command goes on"
            ) from error
        self.ends = list(accumulate(len(batch) for batch in self.batches))
        self._numbers: dict[int, dict[str, Callable[[int], Any]]] = {}

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def row(self, place: int) -> tuple[Any, int]:
        """The batch that has this row, and its place there."""
        k = bisect_right(self.ends, place)
        return self.batches[k], place - (self.ends[k - 1] if k else 0)

    def numbers(self, place: int) -> tuple[dict[str, Callable[[int], Any]], int]:
        """What gives the number, or the list of them, of a row in each such column of its batch; its place there."""
        k = bisect_right(self.ends, place)
        if k not in self._numbers:
            self._numbers[k] = dict(_readers(self.batches[k]))
        return self._numbers[k], place - (self.ends[k - 1] if k else 0)

    def column(self, name: str) -> np.ndarray[Any, Any]:
        """All values of a column of numbers; null becomes NaN."""
        return _joined([batch.column(name).to_numpy(zero_copy_only=False) for batch in self.batches])

    def lengths(self, name: str) -> np.ndarray[Any, Any]:
        """The lengths of all lists of a column."""
        return _joined([np.diff(batch.column(name).offsets.to_numpy()) for batch in self.batches])


def _joined(parts: list[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    """The parts one after the other; without any, for no row fits into `max_length`, an empty array."""
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)


def _readers(batch: Any) -> Iterator[tuple[str, Callable[[int], Any]]]:
    """(name, reader) of the columns of numbers, and of lists of them, which are read where they lie."""
    import pyarrow as pa

    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if pa.types.is_list(column.type) and pa.types.is_integer(column.type.value_type):
            values, ends = column.values.to_numpy(), column.offsets.to_numpy()
            yield name, lambda k, values=values, ends=ends: values[ends[k] : ends[k + 1]]
        elif pa.types.is_integer(column.type):
            yield name, column.to_numpy().__getitem__


def write_arrow(file: Path, schema: Any, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows, of which a batch at a time is in memory, as an Arrow stream."""
    import pyarrow as pa

    batch: list[dict[str, Any]] = []
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for row in rows:
            batch.append(row)
            if len(batch) == _BATCH:
                writer.write_batch(pa.RecordBatch.from_pylist(batch, schema))
                batch.clear()
        if batch:
            writer.write_batch(pa.RecordBatch.from_pylist(batch, schema))


# --- conversations ------------------------------------------------------------------------------------------------

ROWS, IDS = "rows.arrow", "ids.arrow"


class StoredRows(_Lazy[Conversation]):
    """The conversations in a folder, in file order or in `order`, their places there."""

    def __init__(self, folder: Path, order: np.ndarray[Any, Any] | None = None) -> None:
        self.folder, self.order = folder, order
        self._rows, self._ids = _Arrow([folder / ROWS]), _Arrow([folder / IDS])

    def __reduce__(self) -> tuple[Any, ...]:
        return StoredRows, (self.folder, self.order)

    def __len__(self) -> int:
        return len(self._rows) if self.order is None else len(self.order)

    def element(self, place: int) -> Conversation:
        place = place if self.order is None else int(self.order[place])
        (batch, k), (ids, own) = self._rows.row(place), self._ids.row(place)
        found = json.loads(batch.column("row")[k].as_py().decode("utf-8", _SURROGATES))
        id = ids.column("id")[own].as_py().decode("utf-8", _SURROGATES)
        messages = tuple(_message(*message) for message in found["messages"])
        return Conversation(id, messages, tuple(found["references"]), found["source"], tuple(found["remarks"]))

    @property
    def positions(self) -> np.ndarray[Any, Any]:
        """The place of each row of the folder among all that were read, bad ones too."""
        return self._ids.column("position")

    @property
    def questions(self) -> list[int]:
        """What `data/dataset.py:questions_of` gives for these rows."""
        found = self._ids.column("question") if self.order is None else self._ids.column("question")[self.order]
        return found[found >= 0].tolist()

    @property
    def asked(self) -> list[int]:
        """A number per row, by which the order of `question` is drawn."""
        found = self._ids.column("asked")
        return (found if self.order is None else found[self.order]).tolist()


def write_rows(file: Path, rows: Iterable[Conversation]) -> None:
    """Write conversations, without their ids."""
    import pyarrow as pa

    write_arrow(file, pa.schema([("row", pa.large_binary())]), ({"row": _row_json(row)} for row in rows))


def write_ids(
    file: Path, ids: Sequence[str], positions: Sequence[int], questions: Sequence[int], asked: Sequence[int]
) -> None:
    """Write what belongs to each conversation beside its content. `questions`: −1 for none."""
    import pyarrow as pa

    numbers = {"position": positions, "question": questions, "asked": asked}
    schema = pa.schema([("id", pa.large_binary()), *((name, pa.int64()) for name in numbers)])
    columns = zip(ids, *numbers.values(), strict=True)
    rows = ({"id": one.encode("utf-8", _SURROGATES), **dict(zip(numbers, own, strict=True))} for one, *own in columns)
    write_arrow(file, schema, rows)


def _row_json(row: Conversation) -> bytes:
    messages = [
        [m.role, m.content]
        if m.train and not m.extra and not m.tools
        else [m.role, m.content, m.extra, m.tools, m.train]
        for m in row.messages
    ]
    found = {"source": row.source, "messages": messages, "references": row.references, "remarks": row.remarks}
    # What is no JSON is kept as the text that a chat template would print.
    return json.dumps(found, ensure_ascii=False, default=str).encode("utf-8", _SURROGATES)


def _message(role: Any, content: str, extra: Any = None, tools: Any = (), train: bool = True) -> Message:
    return Message(role, content, extra or {}, tuple(tools), train)


# --- token sequences ----------------------------------------------------------------------------------------------


class Sequences(_Lazy[TokenSequence]):
    """Token sequences that are not all in memory: those of files, or several such one after the other."""

    lengths: np.ndarray[Any, Any]  # int64 [n]: tokens of each
    indices: np.ndarray[Any, Any]  # int64 [n]: `index` of each
    cut: np.ndarray[Any, Any]  # bool [n]

    def __len__(self) -> int:
        return len(self.lengths)


class StoredSequences(Sequences):
    """The sequences in the files `part-….arrow` of a folder; of the data, with weight 1."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._rows = _Arrow(sorted(folder.glob("part-*.arrow")))
        self.lengths = self._rows.lengths("ids")
        self.indices, self.cut = self._rows.column("index"), self._rows.column("cut")
        self._aligned = any(batch.column("teacher_prompts").null_count < len(batch) for batch in self._rows.batches)

    def __reduce__(self) -> tuple[Any, ...]:
        return StoredSequences, (self.folder,)

    @property
    def reports(self) -> list[dict[str, Any]]:
        """What the processes that made the files say of their parts, in order."""
        return about(self.folder)["parts"]

    def element(self, place: int) -> TokenSequence:
        view, k = self._rows.numbers(place)
        ids = view["ids"](k)
        mask = torch.zeros(len(ids), dtype=torch.bool)
        for start, end in view["spans"](k).reshape(-1, 2).tolist():
            mask[start:end] = True
        prompts = self._rows.row(place)[0].column("teacher_prompts")[k].as_py() if self._aligned else None
        return TokenSequence(
            index=int(self.indices[place]),
            ids=torch.from_numpy(ids.astype(np.int64)),
            loss_mask=mask,
            prompt_length=int(view["prompt_length"](k)),
            cut=bool(self.cut[place]),
            teacher_prompts=None if prompts is None else tuple(torch.tensor(p, dtype=torch.int64) for p in prompts),
            turns=tuple(view["turns"](k).tolist()),
            part=int(view["part"](k)),
        )


class JoinedSequences(Sequences):
    """Parts one after the other; to the `index` of those of a part its offset is added."""

    def __init__(self, parts: Sequence[Sequence[TokenSequence]], offsets: Sequence[int]) -> None:
        self.parts, self.offsets = parts, offsets
        self.ends = list(accumulate(map(len, parts)))
        self.lengths = np.concatenate([lengths_of(part) for part in parts])
        self.indices = np.concatenate([indices_of(part) + offset for part, offset in zip(parts, offsets, strict=True)])
        self.cut = np.concatenate([cut_of(part) for part in parts])

    def element(self, place: int) -> TokenSequence:
        k = bisect_right(self.ends, place)
        found = self.parts[k][place - (self.ends[k - 1] if k else 0)]
        return replace(found, index=found.index + self.offsets[k])


class Joined(_Lazy[T]):
    """Sequences one after the other, none of which is read before its elements are asked for."""

    def __init__(self, parts: Sequence[Sequence[T]]) -> None:
        self.parts, self.ends = parts, list(accumulate(map(len, parts)))

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def element(self, place: int) -> T:
        k = bisect_right(self.ends, place)
        return self.parts[k][place - (self.ends[k - 1] if k else 0)]


def write_sequences(file: Path, sequences: Iterable[TokenSequence]) -> None:
    """Write token sequences of the data."""
    import pyarrow as pa

    numbers, number = pa.list_(pa.int32()), pa.int32()
    schema = pa.schema(
        [
            *(("index", pa.int64()), ("ids", numbers), ("spans", numbers), ("prompt_length", number)),
            *(("cut", pa.bool_()), ("turns", numbers), ("part", number), ("teacher_prompts", pa.list_(numbers))),
        ]
    )
    write_arrow(file, schema, map(_columns, sequences))


def _columns(one: TokenSequence) -> dict[str, Any]:
    edges = np.flatnonzero(np.diff(one.loss_mask.numpy().astype(np.int8), prepend=0, append=0))
    prompts = one.teacher_prompts
    return {
        "index": one.index,
        "ids": one.ids.to(torch.int32).numpy(),
        "spans": edges.astype(np.int32),
        "prompt_length": one.prompt_length,
        "cut": one.cut,
        "turns": one.turns,
        "part": one.part,
        "teacher_prompts": None if prompts is None else [p.tolist() for p in prompts],
    }


def weights_of(sequences: Sequence[TokenSequence]) -> Tensor:
    """The weight of each sequence, float64 [n]."""
    if isinstance(sequences, Sequences):
        return torch.ones(len(sequences), dtype=torch.float64)
    return torch.tensor([one.weight for one in sequences], dtype=torch.float64)


def lengths_of(sequences: Sequence[TokenSequence]) -> np.ndarray[Any, Any]:
    """The tokens of each sequence, int64 [n]."""
    if isinstance(sequences, Sequences):
        return sequences.lengths
    return np.array([len(one.ids) for one in sequences], dtype=np.int64)


def indices_of(sequences: Sequence[TokenSequence]) -> np.ndarray[Any, Any]:
    """The `index` of each sequence, int64 [n]."""
    if isinstance(sequences, Sequences):
        return sequences.indices
    return np.array([one.index for one in sequences], dtype=np.int64)


def cut_of(sequences: Sequence[TokenSequence]) -> np.ndarray[Any, Any]:
    """Whether each sequence is cut, bool [n]."""
    return sequences.cut if isinstance(sequences, Sequences) else np.array([one.cut for one in sequences], dtype=bool)
