"""Tables as text: aligned for a console, Markdown, LaTeX, JSON."""

import json
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from homae_jax.errors import UserError

Format = Literal["console", "markdown", "latex", "json"]
FORMATS: tuple[Format, ...] = ("console", "markdown", "latex", "json")
Cell = str | float | int | None
INDENT = "  "


class Table(NamedTuple):
    """Rows under a header; the first column names the row."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    decimals: Sequence[int]  # of the numbers, by column after the first
    notes: Sequence[str] = ()


def render(table: Table, fmt: str = "console") -> str:
    """The table as text.

    Raises:
      UserError: the format is not one of FORMATS.
    """
    renderers = {
        "console": _console,
        "markdown": _markdown,
        "latex": _latex,
        "json": lambda table: json.dumps(as_dict(table), indent=2),
    }
    if fmt not in renderers:
        raise UserError(f'format "{fmt}": use one of {", ".join(FORMATS)}')
    return renderers[fmt](table)


def fixed(value: float | None, decimals: int) -> str | None:
    """A number with so many decimals; None stays None."""
    return None if value is None else f"{value:.{decimals}f}"


def texts(table: Table) -> list[list[str]]:
    """Its cells as they are shown; "-" where there is no value."""
    rows = []
    for row in table.rows:
        cells = [str(row[0])]
        for cell, decimals in zip(row[1:], table.decimals, strict=True):
            if isinstance(cell, float):
                cell = fixed(cell, decimals)
            cells.append("-" if cell is None else str(cell))
        rows.append(cells)
    return rows


def _console(table: Table) -> str:
    rows = texts(table)
    widths = [max(map(len, column)) for column in zip(table.header, *rows, strict=True)]
    first = widths[0]

    def line(cells: Sequence[str]) -> str:
        rest = (x.rjust(w) for x, w in zip(cells[1:], widths[1:], strict=True))
        return INDENT + INDENT.join([cells[0].ljust(first), *rest]).rstrip()

    rule = INDENT + "-" * (sum(widths) + len(INDENT) * (len(widths) - 1))
    notes = [INDENT + note for note in table.notes]
    return "\n".join(
        [table.title, rule, line(table.header), rule, *map(line, rows), rule, *notes]
    )


def _markdown(table: Table) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(x.replace("|", "\\|") for x in cells) + " |"

    rule = "|---|" + "---:|" * (len(table.header) - 1)
    notes = ["", *(f"{note}." for note in table.notes)] if table.notes else []
    lines = [f"**{table.title}**", "", line(table.header), rule]
    return "\n".join([*lines, *map(line, texts(table)), *notes])


def _latex(table: Table) -> str:
    def escape(text: str) -> str:
        return "".join(f"\\{c}" if c in "&%$#_{}" else c for c in text)

    def line(cells: Sequence[str]) -> str:
        return "  " + " & ".join(map(escape, cells)) + r" \\"

    caption = ". ".join([table.title, *table.notes])
    return "\n".join(
        [
            r"\begin{table}",
            rf"  \caption{{{escape(caption)}.}}",
            rf"  \begin{{tabular}}{{l{'r' * (len(table.header) - 1)}}}",
            r"  \toprule",
            line(table.header),
            r"  \midrule",
            *map(line, texts(table)),
            r"  \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
        ]
    )


def as_dict(table: Table) -> dict[str, Any]:
    """The table for JSON: rows by column, numbers not rounded."""
    rows = [dict(zip(table.header, row, strict=True)) for row in table.rows]
    return {"title": table.title, "rows": rows, "notes": list(table.notes)}
