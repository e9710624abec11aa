"""A page about training runs: one HTML file with everything inside, and Markdown.

Nothing is fetched and nothing runs: tables, curves and pictures only.
"""

import html
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from homae_jax.viz import figures, gallery

PICTURE_SIDE_PX = 1600
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


class Block(NamedTuple):
    """A part of the page: text in Markdown's tables, or a picture, under a title."""

    title: str
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    notes: Sequence[str] = ()
    picture: np.ndarray | None = None
    is_folded: bool = False
    marked: Sequence[tuple[int, int]] = ()  # row and column of cells in bold


class Section(NamedTuple):
    """What is said of one run, or of all of them together."""

    title: str
    blocks: Sequence[Block]


def write_page(folder: str | Path, sections: Sequence[Section], *, title: str) -> Path:
    """Writes report.html, report.md and the pictures that the latter shows.

    Returns:
      The path of the HTML file.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / "report.md", _markdown(folder, sections, title))
    _replace(folder / "report.html", _html(sections, title))
    return folder / "report.html"


def _replace(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def _markdown(folder: Path, sections: Sequence[Section], title: str) -> str:
    lines = [f"# {title}"]
    for number, section in enumerate(sections):
        lines += ["", f"## {section.title}"]
        for index, block in enumerate(section.blocks):
            lines += ["", f"### {block.title}", ""]
            if block.picture is not None:
                name = f"report_{number}_{index}.png"
                figures.write_png(folder / name, block.picture)
                lines.append(f"![{block.title}]({name})")
            lines += _markdown_table(block)
            lines += ["", *(f"{note}." for note in block.notes)] if block.notes else []
    return "\n".join(lines) + "\n"


def _markdown_table(block: Block) -> list[str]:
    if not block.rows:
        return []

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    rule = "|---|" + "---:|" * (len(block.header) - 1)
    rows = [
        [
            f"**{cell}**" if (r, c) in block.marked else cell
            for c, cell in enumerate(row)
        ]
        for r, row in enumerate(block.rows)
    ]
    return [line(block.header), rule, *map(line, rows)]


def _html(sections: Sequence[Section], title: str) -> str:
    links = "".join(
        f'<a href="#s{i}">{html.escape(section.title)}</a>'
        for i, section in enumerate(sections)
    )
    nav = f"<nav>{links}</nav>" if len(sections) > 1 else ""
    body = "".join(
        f'<section id="s{i}"><h2>{html.escape(section.title)}</h2>'
        + "".join(map(_html_block, section.blocks))
        + "</section>"
        for i, section in enumerate(sections)
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{html.escape(title)}</title>
<style>{gallery.asset("report.css")}</style>
</head>
<body><header><h1>{html.escape(title)}</h1>{nav}</header>
<main>{body}</main></body>
</html>
"""


def _html_block(block: Block) -> str:
    parts = []
    if block.picture is not None:
        source = gallery.embedded_jpeg(block.picture, PICTURE_SIDE_PX)
        parts.append(f'<img src="{source}" alt="{html.escape(block.title)}">')
    if block.rows:
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in block.header)
        rows = "".join(
            f"<tr>{''.join(_html_cell(block, r, c) for c in range(len(row)))}</tr>"
            for r, row in enumerate(block.rows)
        )
        parts.append(
            f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
        )
    parts += [f"<p>{html.escape(note)}.</p>" for note in block.notes]
    title, content = html.escape(block.title), "".join(parts)
    if block.is_folded:
        return f"<details><summary>{title}</summary>{content}</details>"
    return f"<h3>{title}</h3>{content}"


def _html_cell(block: Block, row: int, column: int) -> str:
    text = html.escape(block.rows[row][column])
    is_marked = (row, column) in block.marked
    return f"<td><strong>{text}</strong></td>" if is_marked else f"<td>{text}</td>"
