"""How the project's HTML pages are made of its templates: everything escaped, nothing undefined."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def page_template(name: str, filters: Mapping[str, Callable[..., Any]] | None = None) -> Any:
    """The jinja2 template `templates/<name>`, with filters of its own."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("tutelage"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters or {}
    return environment.get_template(name)
