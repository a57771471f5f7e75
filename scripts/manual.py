"""What mkdocs does not do by itself for the manual (a hook of mkdocs.yml).

The pages of the root (README.md and others) become pages of the manual; the reference of the command line is written
from its help, that of Python from the docstrings. Links between files become links between pages; a link to a file that
is no page keeps its words. Lists and tables that follow a line of text directly, as GitHub reads them, get their blank
line.
"""

from __future__ import annotations

import inspect
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

import tutelage

ROOT = Path(__file__).parents[1]
OF_ROOT = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "LOG.md": "log.md",
}
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)#\s]*)(#[^)\s]*)?\)|(?<=!)\[([^\]]*)\]\(([^)\s]+)\)")
LIST = re.compile(r"(-|\*|1\.) ")
CODE = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are not in docs/."""
    pages = {page: (ROOT / name).read_text(encoding="utf-8") for name, page in OF_ROOT.items()}
    pages |= {"cli.md": command_line(), "api.md": python_api(), "manual.css": STYLE}
    for name, content in pages.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The page's text as mkdocs wants it."""
    prose_and_code = CODE.split(markdown)
    prose_and_code[::2] = [
        spaced(LINK.sub(lambda found: link(found, page.file.src_uri), prose)) for prose in prose_and_code[::2]
    ]
    return "".join(prose_and_code)


def spaced(prose: str) -> str:
    """Lists and tables with a blank line before them."""
    out: list[str] = []
    before = ""
    for line in prose.split("\n"):
        listed = LIST.match(line) and before[:1] not in ("", " ", "-", "*") and not re.match(r"\d+\. ", before)
        if listed or (line.startswith("|") and before and not before.startswith("|")):
            out.append("")
        out.append(line)
        before = line
    return "\n".join(out)


def link(found: re.Match[str], page: str) -> str:
    """A link or picture of the page, to where its target is in the manual."""
    words, path, anchor = (found[1], found[2], found[3] or "") if found[4] is None else (found[4], found[5], "")
    if not path or re.match(r"\w+:", path):
        return found[0]
    at_root = page in OF_ROOT.values()
    target = posixpath.normpath(posixpath.join("" if at_root else f"docs/{posixpath.dirname(page)}", path))
    if target in OF_ROOT:
        place = OF_ROOT[target]
    elif target.startswith("docs/"):
        place = target.removeprefix("docs/")
    else:
        return words
    return f"[{words}]({posixpath.relpath(place, posixpath.dirname(page) or '.')}{anchor})"


def command_line() -> str:
    """The reference of the command line, from the help of each command."""
    from typer.main import get_command

    from tutelage.cli.main import app

    text = [
        "# Command line\n\nThis is what `tutelage COMMAND --help` says. A mistake ends in one line and exit code 1 (2 "
        "for wrong usage, 130 for Ctrl-C).\n"
    ]
    commands(get_command(app), (), text)
    return "\n".join(text)


def commands(command: Any, path: tuple[str, ...], text: list[str]) -> None:
    """Append the command's section, or those of its commands."""
    from tutelage.cli.narrow_help import SETTINGS

    if hasattr(command, "commands"):
        for name, inner in command.commands.items():
            commands(inner, (*path, name), text)
        return
    words = inspect.cleandoc(command.callback.__doc__ or "")
    prose, _, examples = words.partition("\n\ntutelage ")
    examples = "\n".join(line for line in f"tutelage {examples}".split("\n") if line)
    text += [f"## tutelage {' '.join(path)}\n", prose, f"\n```\n{examples}\n```\n"]
    context = command.make_context("tutelage", [], resilient_parsing=True, **SETTINGS)
    records = [parameter.get_help_record(context) for parameter in command.params if parameter.name != "debug"]
    if records:
        text += [
            "| argument or option | what it does |\n|---|---|",
            *(f"| `{cell(name)}` | {cell(words, '&lt;')} |" for name, words in filter(None, records)),
            "",
        ]


def cell(words: str, less: str = "<") -> str:
    """Words in a cell of a table, with bounds and lists as people write them."""
    for old, new in (("<list[str]>", "<text>"), ("<str>", "<text>"), ("<int range>", "<number>"), ("; x>=1]", "]")):
        words = words.replace(old, new)
    return words.removesuffix("  [x>=1]").replace("|", "\\|").replace("<", less)


def python_api() -> str:
    """The reference of Python, from the docstrings of what `tutelage` exports."""
    text = ["# Python reference\n", inspect.cleandoc(tutelage.__doc__ or ""), ""]
    for name in getattr(tutelage, "__all__", ()):
        thing = getattr(tutelage, name)
        text += section(f"## {name}\n", f"tutelage.{name}", thing)
        members = vars(thing).items() if inspect.isclass(thing) and not issubclass(thing, Exception) else ()
        for member, value in members:
            inner = value.fget if isinstance(value, property) else value
            if not member.startswith("_") and inspect.isfunction(inner):
                text += section(f"### {name}.{member}\n", member, value)
    return "\n".join(text)


def section(heading: str, name: str, thing: Any) -> list[str]:
    """Heading, signature and docstring of a class, function or property."""
    plain = not callable(thing) or (inspect.isclass(thing) and issubclass(thing, Exception))
    return [heading, f"```python\n{name if plain else name + signature(thing)}\n```\n", inspect.getdoc(thing) or "", ""]


class Words(str):
    """An annotation as it is written, without quotation marks."""

    __repr__ = str.__str__


def signature(thing: Any) -> str:
    """The signature of a function or class, one parameter per line where it is long."""
    found = inspect.signature(thing)
    parameters = [
        one.replace(annotation=Words(one.annotation)) if isinstance(one.annotation, str) else one
        for one in found.parameters.values()
        if one.name != "self"
    ]
    returned = inspect.Signature.empty if inspect.isclass(thing) else found.return_annotation
    text = str(found.replace(parameters=parameters, return_annotation=inspect.Signature.empty))
    text += f" -> {returned}" if returned is not inspect.Signature.empty else ""
    if len(text) > 70:  # a comma that separates parameters, not those within an annotation
        text = re.sub(r", (?=\*|\w+(: |=))", ",\n    ", text).replace("(", "(\n    ", 1)
    return text


STYLE = """
.md-typeset { font-size: .8rem; } .md-typeset pre > code { font-size: .8em; } .md-grid { max-width: 68rem; }
.md-typeset table:not([class]) { font-size: .72rem; } .md-typeset table:not([class]) td code { white-space: nowrap; }
.md-typeset table:not([class]) td, .md-typeset table:not([class]) th { padding: .55em .9em; }
@media (max-width: 44rem) { .md-typeset table:not([class]) :is(td:last-child:not(:has(> a:only-child)),
  td:nth-child(2):nth-last-child(2)) { min-width: 12rem; } }
.md-typeset img { display: block; max-width: min(100%, 34rem); }
[data-md-color-scheme="slate"] .md-typeset img { background: #fff; padding: .3rem; border-radius: .2rem; }
"""
