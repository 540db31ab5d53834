"""Image folders: the listed files and their order, and the messages for wrong folders."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from image_trees import write_image, write_tree
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import IMG_EXTENSIONS

from sfmoe_dg.data.build import build_dataset
from sfmoe_dg.data.catalog import CATALOG
from sfmoe_dg.data.facts.image_folders import IMAGE_EXTENSIONS
from sfmoe_dg.data.sets.image_folder import BadImageError, load_rgb
from sfmoe_dg.foundation.errors import UserError


def test_extensions_are_those_of_torchvision() -> None:
    assert set(IMAGE_EXTENSIONS) == set(IMG_EXTENSIONS)


def test_listing_equals_torchvision(tmp_path: Path) -> None:
    root = write_tree(tmp_path, domains=("b", "a"), classes=("z", "y"), per_class=2)
    for file in (
        "a/y/deep/10.JPG",
        "a/y/deep/9.jpeg",
        "a/y/Upper.PNG",
        "a/y-2.png",
        "a/z/sub/x/1.bmp",
        "a/z/sub 2/1.png",
    ):
        write_image(root / file)
    dataset = build_dataset("ImageFolder", str(root))
    assert dataset.domain_names == dataset.labels == ("a", "b")
    assert dataset.class_names == ("y", "z")
    for domain in dataset:
        expected = ImageFolder(str(root / domain.name))
        assert [domain.path(i) for i in range(len(domain))] == [path for path, _ in expected.samples]
        assert domain.targets.tolist() == expected.targets
        assert domain.identities is None


def test_hidden_and_other_files(tmp_path: Path) -> None:
    root = write_tree(tmp_path, domains=("a",), per_class=1)
    for hidden in ("a/cat/._0.png", "a/.git/0.png", ".cache/cat/0.png", "a/cat/.DS_Store", "a/cat/.old/deep/0.png"):
        (root / hidden).parent.mkdir(exist_ok=True, parents=True)
        (root / hidden).write_bytes(b"")
    (root / "a/cat/notes.txt").write_text("")
    dataset = build_dataset("ImageFolder", str(root))
    assert (len(dataset), len(dataset[0]), dataset.class_names) == (1, 2, ("cat", "dog"))
    assert dataset.ignored == (str(root / "a/cat/notes.txt"),)


def test_symbolic_links_are_followed(tiny_tree: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "one").symlink_to(tiny_tree / "a")
    (tmp_path / "data" / "two").mkdir()
    (tmp_path / "data" / "two" / "cat").symlink_to(tiny_tree / "b" / "cat")
    (tmp_path / "data" / "two" / "dog").mkdir()
    (tmp_path / "data" / "two" / "dog" / "1.png").symlink_to(tiny_tree / "b" / "dog" / "1.png")
    assert [len(domain) for domain in build_dataset("ImageFolder", str(tmp_path / "data"))] == [12, 7]


def test_image_and_path(tiny_folder, tiny_tree: Path) -> None:
    domain = tiny_folder[1]
    assert domain.path(7) == str(tiny_tree / "b" / "dog" / "1.png")
    assert np.array_equal(np.array(domain.image(7)), np.array(Image.open(domain.path(7))))
    assert not tiny_folder.in_memory


PACS_CLASSES = ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person")


def make_pacs(root: Path) -> Path:
    return write_tree(root / "PACS", CATALOG.load("PACS").domains, PACS_CLASSES, per_class=1)


def remove(path: Path) -> None:
    for child in path.iterdir():
        remove(child) if child.is_dir() else child.unlink()
    path.rmdir()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda root: remove(root / "PACS"),
            r"PACS is looked for in .*PACS, which is not a folder; data_dir must be",
        ),
        (
            lambda root: remove(root / "PACS/photo"),
            "not the domains of PACS: missing photo; it must hold exactly art_p",
        ),
        (lambda root: (root / "PACS/photos").mkdir(), "not the domains of PACS: extra photos;"),
        (
            lambda root: remove(root / "PACS/photo/dog"),
            "domain photo differ from those of art_painting: missing dog, in",
        ),
        (lambda root: (root / "PACS/sketch/cat").mkdir(), "domain sketch differ from those of art_painting: extra cat"),
        (
            lambda root: [remove(root / "PACS" / domain / "dog") for domain in CATALOG.load("PACS").domains],
            r"PACS has 7 classes, but .* holds 6 \(elephant, giraffe, guitar, horse, house and 1 more\)",
        ),
        (lambda root: (root / "PACS/photo/dog/0.png").unlink(), "domain photo has no image of class dog, in"),
        (
            lambda root: [(root / "PACS/photo" / name / "0.png").unlink() for name in PACS_CLASSES],
            "domain photo has no image at all",
        ),
    ],
)
def test_folders_that_do_not_fit(tmp_path: Path, spoil, message: str) -> None:
    make_pacs(tmp_path)
    build_dataset("PACS", str(tmp_path))
    spoil(tmp_path)
    with pytest.raises(UserError, match=message):
        build_dataset("PACS", str(tmp_path))


def test_data_dir_mistakes(tmp_path: Path) -> None:
    root = make_pacs(tmp_path)
    with pytest.raises(UserError, match=rf"holds the domains of PACS itself; give its parent, {tmp_path}, and name"):
        build_dataset("PACS", str(root))
    with pytest.raises(UserError, match=r"data_dir .*nowhere is not a folder; give the folder that holds PACS"):
        build_dataset("PACS", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="data set PACS needs data_dir, the folder that holds the folder PACS"):
        build_dataset("PACS")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty holds no folders; ImageFolder needs one folder per domain"):
        build_dataset("ImageFolder", str(tmp_path / "empty"))
    (tmp_path / "flat" / "domain").mkdir(parents=True)
    with pytest.raises(UserError, match=r"domain domain of ImageFolder is empty: .* holds no class folders"):
        build_dataset("ImageFolder", str(tmp_path / "flat"))
    with pytest.raises(UserError, match="on_bad_image is 'ignore'; allowed: error, skip"):
        build_dataset("PACS", str(tmp_path), on_bad_image="ignore")


def test_cub_dg_identities(tmp_path: Path) -> None:
    """The same class folder and stem is the same photograph, whatever the extension."""
    classes = [f"{i:03d}.Bird" for i in range(200)]
    write_tree(tmp_path / "CUB_DG", CATALOG.load("CUBDG").domains, classes, per_class=1)
    write_image(tmp_path / "CUB_DG" / "Natural" / classes[3] / "1.jpg")
    write_image(tmp_path / "CUB_DG" / "Udnie" / classes[3] / "1.png")
    dataset = build_dataset("CUBDG", str(tmp_path))
    assert len(dataset.identity_names) == 201
    names = [[dataset.identity_names[i] for i in domain.identities] for domain in dataset]
    assert names[0] == [f"{name}/0" for name in classes]
    assert names[2] == names[3]
    assert names[2][3:5] == ["003.Bird/0", "003.Bird/1"]


def spoiled(path: Path, kind: str) -> Path:
    if kind == "truncated":
        path.write_bytes(write_image(path, size=(200, 200)).read_bytes()[:-2000])
    elif kind == "text":
        path.write_text("not a picture")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "float":
        Image.fromarray(np.zeros((4, 4), np.float32)).save(path.with_suffix(".tiff"))
        return path.with_suffix(".tiff")
    return path


@pytest.mark.parametrize("kind", ["truncated", "text", "empty", "float"])
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_bad_images_are_named(tmp_path: Path, kind: str, suffix: str) -> None:
    path = spoiled(tmp_path / f"bad{suffix}", kind)
    with pytest.raises(
        BadImageError, match=rf"image {path} does not decode \(.*\); replace it, or leave such images out"
    ):
        load_rgb(str(path))


def test_decompression_bomb(tmp_path: Path, monkeypatch) -> None:
    path = write_image(tmp_path / "bomb.png", size=(40, 40))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(BadImageError, match=r"bomb.png does not decode .*decompression bomb"):
        load_rgb(str(path))


def test_unreadable_is_not_bad(tmp_path: Path) -> None:
    """A missing file says nothing about the image, so ``skip`` must not drop it."""
    root = write_tree(tmp_path, domains=("a",), per_class=1)
    (root / "a/cat/link.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(UserError, match=r"link.png cannot be read \(No such file or directory\)"):
        build_dataset("ImageFolder", str(root), on_bad_image="skip")


def test_lack_of_memory_is_not_bad(tmp_path: Path, monkeypatch) -> None:
    """Nor does a machine without memory: a good image must not vanish from the splits."""
    root = write_tree(tmp_path, domains=("a",), per_class=1)
    convert = Image.Image.convert

    def scarce(image, *arguments):
        if image.size == (7, 7):
            raise MemoryError
        return convert(image, *arguments)

    write_image(root / "a/cat/large.png", size=(7, 7))
    monkeypatch.setattr(Image.Image, "convert", scarce)
    with pytest.raises(UserError, match=r"no memory left to decode image .*a/cat/large\.png; make some free"):
        build_dataset("ImageFolder", str(root), on_bad_image="skip")


def test_skip_leaves_bad_images_out_and_lists_them(tmp_path: Path) -> None:
    root = write_tree(tmp_path, domains=("a", "b"), per_class=3)
    bad = [spoiled(root / "a/cat/1.png", "truncated"), spoiled(root / "b/dog/9.jpg", "text")]
    assert [len(domain) for domain in build_dataset("ImageFolder", str(root))] == [6, 7]
    dataset = build_dataset("ImageFolder", str(root), on_bad_image="skip")
    assert dataset.skipped == tuple(map(str, bad))
    assert [domain.files for domain in dataset] == [
        [f"{name}/{i}.png" for name in ("cat", "dog") for i in range(3) if f"{name}/{i}" not in gone]
        for gone in (["cat/1"], [])
    ]
    for i in (0, 2):
        spoiled(root / f"a/cat/{i}.png", "text")
    with pytest.raises(UserError, match="domain a has no image of class cat after 4 bad images were left out"):
        build_dataset("ImageFolder", str(root), on_bad_image="skip")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "I;16"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    suffix = {"CMYK": ".tiff", "YCbCr": ".jpg"}.get(mode, ".png")
    path = tmp_path / f"image{suffix}"
    if mode == "I;16":
        Image.fromarray(np.full((3, 5), 153 << 8, np.uint16)).save(path)
    else:
        Image.new("RGB", (5, 3), (153, 153, 153)).convert(mode).save(path)
    image = load_rgb(str(path))
    assert (image.mode, image.size) == ("RGB", (5, 3))
    if mode != "1":
        assert np.abs(np.array(image).astype(int) - 153).max() <= 2


def test_exif_orientation_is_ignored_as_upstream_does(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    Image.new("RGB", (8, 4)).save(tmp_path / "turned.jpg", exif=exif)
    assert load_rgb(str(tmp_path / "turned.jpg")).size == (8, 4)


@pytest.mark.shared_data
def test_real_pacs(shared_data: Path) -> None:
    dataset = build_dataset("PACS", str(shared_data))
    assert dataset.class_names == PACS_CLASSES
    assert sum(map(len, dataset)) == 1998
    for domain in dataset:
        expected = ImageFolder(os.path.join(shared_data, "PACS", domain.name))
        assert [domain.path(i) for i in range(len(domain))] == [path for path, _ in expected.samples]
        assert domain.targets.tolist() == expected.targets
    assert dataset[0].image(0).size == (227, 227)
