"""Jinja2 templates of the HTML pages: all values are escaped, and an undefined name is an error."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def page_template(package: str, name: str, filters: Mapping[str, Callable[..., Any]] | None = None) -> Any:
    """Load the Jinja2 template `name` from the folder of `package` (a dotted name). `filters`: more filters by name."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(package, ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters or {}
    return environment.get_template(name)
