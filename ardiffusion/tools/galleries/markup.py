"""HTML from Python: every text and attribute is escaped on its way in."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

VOID = frozenset({"img", "input", "meta", "br"})


class Markup(str):
    """Text that is HTML already."""


Cell = str | float  # of a table; Markup is a str


def element(name: str, *children: str, **attributes: str | int | bool | None) -> Markup:
    """Return an element; children that are no Markup are escaped.

    Args:
        name: The tag.
        children: Text, or elements.
        attributes: `class_` is class, `data_x` is data-x; False and None leave one out.
    """
    written = "".join(
        f" {key.rstrip('_').replace('_', '-')}"
        + ("" if value is True else f'="{escape(str(value))}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    inner = "".join(child if isinstance(child, Markup) else escape(child) for child in children)
    return Markup(f"<{name}{written}>" + ("" if name in VOID else f"{inner}</{name}>"))


def join(*parts: str) -> Markup:
    """Put elements after each other."""
    return Markup("".join(part if isinstance(part, Markup) else escape(part) for part in parts))


def number(value: object) -> str:
    """Write a number with four digits that count, whole ones and texts as they are."""
    if isinstance(value, float):
        return f"{value:.2f}" if 1 <= abs(value) < 1e6 else f"{value:.4g}"
    return str(value)


def plain(value: object) -> str:
    """Write a value of a settings table: lists with commas, nothing as a dash."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {plain(inner)}" for name, inner in value.items()) or "–"
    if isinstance(value, list | tuple):
        return ", ".join(plain(inner) for inner in value) or "–"
    return "–" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def definitions(values: Mapping[str, Any]) -> Markup:
    """Return names with values, as a list of definitions."""
    lines = (
        element("div", element("dt", str(name)), element("dd", plain(value)))
        for name, value in values.items()
    )
    return element("dl", *lines)


def table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]], note: str = ""
) -> Markup:
    """Return a table that scrolls by itself where it is too wide; numbers are set to the right."""
    right = [
        any(not isinstance(row[i], str) for row in rows if i < len(row))
        for i in range(len(columns))
    ]
    head = [
        element("th", name, scope="col", class_="number" if numeric else None)
        for name, numeric in zip(columns, right, strict=True)
    ]
    inner = element(
        "table",
        element("caption", title),
        element("thead", element("tr", *head)),
        element("tbody", *(table_row(row) for row in rows)),
    )
    scroller = element(
        "div", inner, class_="scroll", tabindex="0", role="region", aria_label=title
    )
    return join(scroller, element("p", note, class_="note") if note else "")


def table_row(row: Sequence[Cell]) -> Markup:
    """Return a row of a table, whose first cell is its heading."""
    cells = []
    for i, value in enumerate(row):
        text, kind = (value, None) if isinstance(value, str) else (number(value), "number")
        name, scope = ("td", None) if i else ("th", "row")
        cells.append(element(name, text, class_=kind, scope=scope))
    return element("tr", *cells)
