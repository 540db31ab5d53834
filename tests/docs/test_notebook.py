"""docs/tutorial.ipynb: committed with its outputs, small, and every cell still runs."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

nbformat = pytest.importorskip("nbformat")
NOTEBOOK = Path(__file__).resolve().parents[2] / "docs" / "tutorial.ipynb"
LARGEST = 500_000
FIGURES = 4
TABLES = 7


def read():
    return nbformat.read(NOTEBOOK, as_version=4)


def outputs(book, kind: str) -> Iterator[str]:
    """What the cells show in one format, in their order."""
    for cell in book.cells:
        for output in cell.get("outputs", []):
            if kind in output.get("data", {}):
                yield output["data"][kind]


def check_outputs(book) -> None:
    """Figures show something, tables have rows, no cell has failed, and the new objective is in the comparison."""
    kinds = [output["output_type"] for cell in book.cells for output in cell.get("outputs", [])]
    assert "error" not in kinds
    assert "stream" not in kinds  # warnings and progress are no part of the tutorial
    figures = [Image.open(io.BytesIO(base64.b64decode(png))) for png in outputs(book, "image/png")]
    assert len(figures) == FIGURES
    for figure in figures:
        assert np.asarray(figure.convert("L")).std() > 10
    tables = list(outputs(book, "text/html"))
    assert len(tables) == TABLES
    comparison = tables[-1]
    assert comparison.count("SFMoE") == comparison.count("ClassMeans") == 1  # one line of the index for both seeds
    for name in ("chalk", "ink", "mosaic", "neon"):
        assert f"<th>{name}</th>" in comparison


def test_it_is_committed_as_it_ran():
    assert NOTEBOOK.stat().st_size < LARGEST
    book = read()
    nbformat.validate(book)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    check_outputs(book)
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert "/tmp/" not in text
    assert "/home/" not in text


@pytest.mark.slow
def test_every_cell_runs(tmp_path):
    pytest.importorskip("ipykernel")
    client = pytest.importorskip("nbclient").NotebookClient
    book = read()
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    environment = os.environ | {"TMPDIR": str(tmp_path), "IPYTHONDIR": str(tmp_path / "ipython")}
    client(book, timeout=1200, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute(
        env=environment
    )
    check_outputs(book)
