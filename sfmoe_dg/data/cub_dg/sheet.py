"""A contact sheet of CUB-DG: one row per bird, one column per domain, with parts and boxes drawn."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sfmoe_dg.data.cub_dg.names import TABLE
from sfmoe_dg.data.cub_dg.table import BirdTable, read_table
from sfmoe_dg.data.sets.image_folder import load_rgb
from sfmoe_dg.foundation.files import write_atomic

_MARGIN, _HEADER, _DOT = 4, 20, 4
_COLORS = {"beak": "red", "wing": "cyan", "tail": "yellow"}
_OTHER = "white"


def write_contact_sheet(folder: Path, path: Path, num_birds: int = 5, height: int = 260) -> None:
    """Draw ``num_birds`` of a complete ``CUB_DG`` folder into a PNG file, pictures scaled to ``height`` pixels.

    Birds are taken evenly from the table, each the one with most visible parts among its neighbours. Beaks are red,
    wings cyan, tails yellow, other parts white, the box is green.

    Raises:
        UserError: if the table or a picture cannot be read.
        OSError: if ``path`` cannot be written.
    """
    table = read_table(folder / TABLE)
    domains = sorted(set(table.domain))
    rows = {key: row for row, key in enumerate(zip(table.name, table.domain, strict=True))}
    cells = [
        [_cell(folder, table, rows[name, domain], height) for domain in domains]
        for name in _chosen(table, domains[0], num_birds)
    ]
    widths = [max(line[column].width for line in cells) for column in range(len(domains))]
    sheet = Image.new("RGB", (sum(widths) + _MARGIN * len(widths), _HEADER + len(cells) * (height + _MARGIN)), "black")
    draw, left = ImageDraw.Draw(sheet), 0
    for column, (domain, width) in enumerate(zip(domains, widths, strict=True)):
        draw.text((left + _MARGIN, 2), domain, "white", ImageFont.load_default(14))
        for line, pictures in enumerate(cells):
            sheet.paste(pictures[column], (left, _HEADER + line * (height + _MARGIN)))
        left += width + _MARGIN
    stream = io.BytesIO()
    sheet.save(stream, "PNG")
    write_atomic(path, stream.getvalue())


def _chosen(table: BirdTable, domain: str, num_birds: int) -> list[str]:
    rows = np.flatnonzero(np.array(table.domain) == domain)
    visible = (table.parts[rows, :, 2] > 0).sum(axis=1)
    groups = np.array_split(np.arange(len(rows)), min(num_birds, len(rows)))
    return [table.name[rows[group[np.argmax(visible[group])]]] for group in groups]


def _cell(folder: Path, table: BirdTable, row: int, height: int) -> Image.Image:
    picture = load_rgb(str(folder / table.file[row]))
    scale = height / picture.height
    picture = picture.resize((max(1, round(picture.width * scale)), height), Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(picture)
    x, y, box_width, box_height = (float(value) * scale for value in table.box[row])
    draw.rectangle((x, y, x + box_width, y + box_height), outline="lime")
    for name, (part_x, part_y, visible) in zip(table.part_names, table.parts[row], strict=True):
        if visible:
            color = next((color for word, color in _COLORS.items() if word in name), _OTHER)
            x, y = float(part_x) * scale, float(part_y) * scale
            draw.ellipse((x - _DOT, y - _DOT, x + _DOT, y + _DOT), fill=color, outline="black")
    return picture
