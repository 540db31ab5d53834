"""CUB-200-2011's text files: the values that are read, and the messages for wrong files."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cub_trees import ATTRIBUTES, CLASSES, PARTS, write_cub, write_lines

from sfmoe_dg.data.cub_dg.birds import read_birds
from sfmoe_dg.foundation.errors import UserError


@pytest.fixture
def cub(tmp_path: Path) -> Path:
    return write_cub(tmp_path)


def test_everything_is_read(cub: Path) -> None:
    birds = read_birds(cub)
    assert birds.ids.tolist() == [11, 12, 13, 14, 15, 16]
    assert (birds.classes, birds.part_names, birds.attributes.names) == (CLASSES, PARTS, ATTRIBUTES)
    assert birds.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert birds.is_train.tolist() == [True, False] * 3
    assert birds.boxes.tolist() == [[2, 3, 10, 8]] * 6
    assert birds.parts[0, :3].tolist() == [[1, 2, 1], [0, 0, 0], [3, 4, 1]]
    assert birds.image_path(4) == cub / "images/003.Coot/Coot_0001.png"
    assert birds.image_path(4).is_file()
    assert read_birds(cub.parent).paths == birds.paths  # the folder above will do


def test_lines_in_any_order(cub: Path) -> None:
    expected = read_birds(cub)
    for name in ("image_class_labels.txt", "train_test_split.txt", "bounding_boxes.txt", "parts/part_locs.txt"):
        write_lines(cub / name, (cub / name).read_text().splitlines()[::-1])
    birds = read_birds(cub)
    for name in ("labels", "is_train", "boxes", "parts"):
        assert np.array_equal(getattr(birds, name), getattr(expected, name))


def test_class_table_where_images_are_not_labelled(cub: Path) -> None:
    attributes = read_birds(cub).attributes
    assert attributes.source == "class"
    assert np.allclose(attributes.present[[0, 1, 2, 5]], [[0, 0.5, 1], [0, 0.5, 1], [0.25, 0, 0.025], [0, 0, 0.75]])
    assert not attributes.certainty.any()


def test_image_labels_with_lines_that_have_extra_fields(cub: Path) -> None:
    lines = [f"{id_} {a} {(id_ + a) % 2} {1 + a % 4} 2.5" for id_ in range(11, 17) for a in (1, 2, 3)]
    lines[4] = "12 2 0 3 0 1.509"  # a stray field, as in the published file
    lines[7] = "13 2 1 3 0 0 9.1"
    lines[0] = "11 1 1 4 1.0"
    lines.append("11 1 0 2 1.0")  # answered twice: the last one counts
    lines.remove("16 3 1 4 2.5")  # never answered
    write_lines(cub / "attributes/image_attribute_labels.txt", lines)
    attributes = read_birds(cub).attributes
    assert (attributes.source, attributes.extra_field_lines) == ("image", 2)
    assert (attributes.repeated, attributes.unlabelled) == (1, 1)
    assert (attributes.present[0, 0], attributes.certainty[0, 0]) == (0, 2)
    assert (attributes.present[1, 1], attributes.certainty[1, 1]) == (0, 3)
    assert (attributes.present[2, 1], attributes.certainty[2, 1]) == (1, 3)
    assert np.isnan(attributes.present[5, 2])
    assert attributes.certainty[5, 2] == 0


@pytest.mark.parametrize("place", ["attributes.txt", "../attributes.txt"])
def test_names_of_attributes_where_archives_have_them(cub: Path, place: str) -> None:
    shutil.move(cub / "attributes/attributes.txt", cub / place)
    assert read_birds(cub).attributes.names == ATTRIBUTES


@pytest.mark.parametrize(
    ("file", "line", "text", "message"),
    [
        ("images.txt", 0, "11 ../../evil.jpg", r"images.txt, line 1: '../../evil.jpg' is not a path of the form class"),
        ("images.txt", 0, "11 /etc/evil.jpg", "is not a path of the form class/file"),
        ("images.txt", 0, "11 ../evil.jpg", "is not a path of the form class/file"),
        ("images.txt", 1, "12 001.Awk/Awk_0001.png", "lines 1 and 2 name the same image 001.Awk/Awk_0001"),
        ("images.txt", 1, "11 001.Awk/Awk_0002.jpg", "gives 1 image ids twice"),
        ("images.txt", 1, "12", "line 2 has 1 fields, 2 are expected"),
        ("image_class_labels.txt", 2, "13 9", "image_class_labels.txt, line 3 has the unknown class 9"),
        ("image_class_labels.txt", 2, "13 1", "gives 002.Bunting/Bunting_0001.jpg the class 001.Awk"),
        ("train_test_split.txt", 2, "13 2", "line 3 has the unknown split 2"),
        ("train_test_split.txt", 2, "12 1", "has 6 lines and leaves out 1 of the 6 images of images.txt"),
        ("train_test_split.txt", 2, "99 1", "line 3 has the unknown image id 99"),
        ("bounding_boxes.txt", 0, "11 1 2 3 wide", "line 1 has 'wide' where a number is expected"),
        ("parts/part_locs.txt", 0, "11 2 0 0 0", "leaves out 1 parts of images"),
        ("attributes/class_attribute_labels_continuous.txt", 0, "1 2", "cannot be read"),
    ],
)
def test_lines_that_do_not_fit(cub: Path, file: str, line: int, text: str, message: str) -> None:
    lines = (cub / file).read_text().splitlines()
    lines[line] = text
    write_lines(cub / file, lines)
    with pytest.raises(UserError, match=message):
        read_birds(cub)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("99 1 1 1 0", "labels 1 unknown image ids, the first is 99"),
        ("11 9 1 1 0", "labels 1 unknown attribute ids, the first is 9"),
        ("11 1 2 1 0", "line 1: present must be 0 or 1"),
        ("11 1 1 7 0", "certainty 1 to 4"),
        ("11 1", "image_attribute_labels.txt cannot be read"),
    ],
)
def test_image_labels_that_do_not_fit(cub: Path, line: str, message: str) -> None:
    write_lines(cub / "attributes/image_attribute_labels.txt", [line])
    with pytest.raises(UserError, match=message):
        read_birds(cub)


def test_what_is_missing_is_named(cub: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere is not CUB-200-2011: no images.txt in it"):
        read_birds(tmp_path / "nowhere")
    (cub / "attributes/class_attribute_labels_continuous.txt").unlink()
    with pytest.raises(UserError, match=r"has neither attributes/image_attribute_labels.txt nor attributes/class"):
        read_birds(cub)
    (cub / "attributes/attributes.txt").unlink()
    with pytest.raises(UserError, match=r"lacks attributes/attributes.txt"):
        read_birds(cub)
    (cub / "parts/part_locs.txt").unlink()
    with pytest.raises(UserError, match=r"lacks parts/part_locs.txt; unpack all"):
        read_birds(cub)


def test_no_torch() -> None:
    code = "import sys, sfmoe_dg.data.cub_dg.birds; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.shared_data
def test_real_text_files(shared_data: Path) -> None:
    birds = read_birds(shared_data / "CUB_200_2011")
    assert (len(birds), len(birds.classes), birds.parts.shape) == (11788, 200, (11788, 15, 3))
    assert (birds.is_train.sum(), (~birds.is_train).sum()) == (5994, 5794)
    assert birds.attributes.present.shape == (11788, 312)
    assert len({name.partition("::")[0] for name in birds.attributes.names}) == 28
    assert birds.attributes.source == "class"
    assert 0 <= birds.attributes.present.min() < birds.attributes.present.max() <= 1
    inside = (birds.parts[..., 2] > 0).mean()
    assert 0.7 < inside < 0.9  # most parts are visible
