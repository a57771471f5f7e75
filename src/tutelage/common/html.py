"""Jinja2 templates of the HTML pages: all values are escaped, and an undefined name is an error."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

# A table wider than the page scrolls in its `.scroll`. A shadow lies on each side where more of it is: the second pair
# of gradients stays, and the first, which scrolls with the table, covers it at the table's ends.
SCROLL_HINT = """.scroll { overflow-x: auto; --shade: rgb(28 33 39 / .3); background:
  linear-gradient(90deg, var(--page) 40%, transparent) 0 0 / 3rem 100% local,
  linear-gradient(-90deg, var(--page) 40%, transparent) 100% 0 / 3rem 100% local,
  linear-gradient(90deg, var(--shade), transparent) 0 0 / 1rem 100%,
  linear-gradient(-90deg, var(--shade), transparent) 100% 0 / 1rem 100%; background-repeat: no-repeat; }
@media (prefers-color-scheme: dark) { .scroll { --shade: rgb(232 234 237 / .35); } }"""


def page_template(package: str, name: str, filters: Mapping[str, Callable[..., Any]] | None = None) -> Any:
    """Load the Jinja2 template `name` from the folder of `package` (a dotted name). `filters`: more filters by
    name, beside `code`, which shows what a sentence has between backticks as code, and `words`, for the inside of
    `<code>`. A page's style has `scroll_hint`."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader(package, ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["scroll_hint"] = Markup(SCROLL_HINT)
    environment.filters |= {"code": _code, "words": _words, **(filters or {})}
    return environment.get_template(name)


def _code(text: str) -> Any:
    from markupsafe import Markup, escape

    return Markup(re.sub(r"`([^`\n]+)`", lambda found: f"<code>{_words(Markup(found[1]))}</code>", str(escape(text))))


def _words(command: str) -> Any:
    """A command whose words are not broken at a hyphen or slash (`code span` of the page's style), but where one is
    longer than a line of a phone: what follows it would begin a line of its own."""
    from markupsafe import Markup, escape

    shorter = r"(?<!\S)(?=\S{1,30}(?!\S))\S*[-/?]\S*"
    return Markup(re.sub(shorter, r"<span>\g<0></span>", str(escape(command))))
