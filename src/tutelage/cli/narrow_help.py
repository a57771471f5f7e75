"""How `--help` looks: in boxes where there is room for them, else as plain text whose lines fit the terminal."""

from __future__ import annotations

from shutil import get_terminal_size
from typing import Any

from typer.core import TyperGroup

WIDE = 90  # columns; in fewer, boxes would cut the names of options short
COLUMNS = get_terminal_size().columns
SETTINGS: dict[str, Any] = {} if COLUMNS >= WIDE else {"terminal_width": COLUMNS}  # of the context of all commands

_Context: Any = TyperGroup.context_class


class _Formatter(_Context.formatter_class):
    """Plain help whose names take a third of the terminal at most, so that there is room for what they do."""

    def write_dl(self, rows: Any, col_max: int = 30, col_spacing: int = 2) -> None:
        super().write_dl(rows, min(col_max, self.width // 3), col_spacing)


_Context.formatter_class = _Formatter  # typer has no other way to name it for all commands


class Commands(TyperGroup):
    """A group whose plain help says what each command does in full, on as many lines as that takes."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        found = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, one.get_short_help_str(1000)) for name, one in found if one is not None])
