"""How `--help` looks: in boxes where there is room for them, else as plain text whose lines fit the terminal."""

from __future__ import annotations

from shutil import get_terminal_size
from typing import Any

from typer.core import TyperGroup

from tutelage.cli.misspelt import no_command

WIDE = 90  # columns; in fewer, boxes would cut the names of options short
COLUMNS = get_terminal_size().columns
_NAMES: dict[str, Any] = {"help_option_names": ["--help", "-h"]}
SETTINGS = _NAMES | ({} if COLUMNS >= WIDE else {"terminal_width": COLUMNS})  # of the context of all commands

_Context: Any = TyperGroup.context_class


class _Formatter(_Context.formatter_class):
    """Plain help whose names take a third of the terminal at most, so that there is room for what they do."""

    def write_dl(self, rows: Any, col_max: int = 30, col_spacing: int = 2) -> None:
        super().write_dl(rows, min(col_max, self.width // 3), col_spacing)


_Context.formatter_class = _Formatter  # typer has no other way to name it for all commands


class Commands(TyperGroup):
    """A group whose plain help says what each command does in full, on as many lines as that takes, and that says what
    was meant by a command that it does not have."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[:1] and args[0][:1] != "-" and self.get_command(ctx, args[0]) is None:
            ctx.fail(no_command(args[0], self.list_commands(ctx)))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        found = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, one.get_short_help_str(1000)) for name, one in found if one is not None])
