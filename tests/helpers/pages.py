"""Reading HTML pages in tests, and text that tries to break out of them."""

from __future__ import annotations

import io
from html.parser import HTMLParser
from typing import Any

import pytest
from matplotlib.figure import Figure

HOSTILE = (
    "</script></div><img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>{{ 7*7 }}"
)


class Page(HTMLParser):
    """The tags, addresses and event handlers of a page, and its visible text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.handlers: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def do_not_draw(patch: pytest.MonkeyPatch, *kinds: str) -> None:
    """Figures are laid out but not drawn: their files (of these kinds, if any are named) are empty."""
    real = Figure.savefig

    def savefig(self: Figure, file: io.BytesIO, *, format: str, **options: Any) -> None:
        if kinds and format not in kinds:
            real(self, file, format=format, **options)
        else:
            file.write(b"<svg></svg>" if format == "svg" else b"")

    patch.setattr(Figure, "savefig", savefig)
