"""How the project's HTML pages are made of its templates: everything escaped, nothing undefined."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def page_template(package: str, name: str, filters: Mapping[str, Callable[..., Any]] | None = None) -> Any:
    """The jinja2 template `name` in the folder of `package` (dotted), with filters of its own."""
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
