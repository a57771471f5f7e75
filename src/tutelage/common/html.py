"""Jinja2 templates of the HTML pages: all values are escaped, and an undefined name is an error."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any


def page_template(package: str, name: str, filters: Mapping[str, Callable[..., Any]] | None = None) -> Any:
    """Load the Jinja2 template `name` from the folder of `package` (a dotted name). `filters`: more filters by
    name, beside `code`, which shows what a sentence has between backticks as code."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(package, ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"code": _code, **(filters or {})}
    return environment.get_template(name)


def _code(text: str) -> Any:
    from markupsafe import Markup, escape

    return Markup(re.sub(r"`([^`\n]+)`", r"<code>\1</code>", str(escape(text))))
