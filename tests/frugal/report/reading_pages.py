"""What a page says: its text by section, its tables as rows of text. No browser."""

from __future__ import annotations

import re
from html.parser import HTMLParser

_VOID = {"meta", "link", "br", "img", "input", "hr", "path", "rect"}


class Page(HTMLParser):
    """A parsed page: `sections` (id → text), `tables` (id → rows of cells), `ids`, `tags` (name, attributes)."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.sections: dict[str, str] = {}
        self.tables: dict[str, list[list[str]]] = {}
        self.ids: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.headings: list[int] = []
        self._open: list[str] = []
        self._section = self._table = ""
        self.feed(html)
        self.close()
        self.sections = {name: re.sub(r"\s+", " ", text).strip() for name, text in self.sections.items()}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append((tag, given))
        if given.get("id"):
            self.ids.append(str(given["id"]))
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag == "section":
            self._section = str(given["id"])
            self.sections[self._section] = ""
        if tag == "table":
            self._table = str(given["id"])
            self.tables[self._table] = []
        if tag == "tr":
            self.tables[self._table].append([])
        if tag in ("td", "th"):
            self.tables[self._table][-1].append("")
        if tag not in _VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in _VOID:
            return
        assert self._open, f"</{tag}> closes nothing"
        assert self._open.pop() == tag, f"</{tag}> closes something else at line {self.getpos()[0]}"
        if tag in ("dt", "dd", "td", "th", "span") and self._section:
            self.sections[self._section] += " "
        if tag == "table":
            self._table = ""

    def handle_data(self, data: str) -> None:
        if self._section and not {"style", "script"} & set(self._open):
            self.sections[self._section] += data
        if self._table and {"td", "th"} & set(self._open):
            row = self.tables[self._table][-1]
            row[-1] = re.sub(r"\s+", " ", (row[-1] + data)).strip()

    def close(self) -> None:
        super().close()
        assert self._open == [], f"never closed: {self._open}"
