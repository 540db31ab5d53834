"""Camelyon17-WILDS and FMoW-WILDS through the real package, on small data in its layout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms as tv
from wilds_trees import write_camelyon, write_fmow

from sfmoe_dg.data.batches.transforms import IMAGENET_MEAN, IMAGENET_STD, ImageTransform
from sfmoe_dg.data.build import build_dataset
from sfmoe_dg.data.sets.wilds import import_wilds
from sfmoe_dg.foundation.errors import UserError


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small versions of both data sets. Not to be changed."""
    folder = tmp_path_factory.mktemp("wilds")
    write_camelyon(folder)
    write_fmow(folder)
    return folder


def test_camelyon_hospitals(root: Path) -> None:
    dataset = build_dataset("WILDSCamelyon", str(root))
    assert dataset.domain_names == dataset.labels == tuple(f"hospital_{i}" for i in range(5))
    assert dataset.class_names == ("no tumour", "tumour")
    for hospital, domain in enumerate(dataset):
        assert domain.targets.tolist() == [0, 1, 0], "rows h, h + 5 and h + 10 of the table"
        name = f"patient_{hospital:03d}_node_{(hospital + 5) % 3}"
        assert domain.path(1).endswith(f"camelyon17_v1.0/patches/{name}/patch_{name}_x_{105 + hospital}_y_200.png")


def test_fmow_regions(root: Path) -> None:
    """Regions are numbered as they appear: Europe, Asia, Africa, Americas, Oceania, Other."""
    dataset = build_dataset("WILDSFMoW", str(root))
    rows = [[2], [1, 3, 9], [4], [5], [7], [8]]
    assert dataset.domain_names == tuple(f"region_{i}" for i in range(6))
    files = [[os.path.basename(domain.path(i)) for i in range(len(domain))] for domain in dataset]
    assert files == [[f"rgb_img_{row}.png" for row in region] for region in rows]
    names = [[dataset.class_names[target] for target in domain.targets] for domain in dataset]
    assert names == [["airport"], ["zoo", "zoo", "airport"], ["wind_farm"], ["zoo"], ["zoo"], ["airport"]]
    assert dataset.num_classes == 62


@pytest.mark.parametrize(
    ("name", "module", "attribute"),
    [("WILDSCamelyon", "camelyon17_dataset", "Camelyon17Dataset"), ("WILDSFMoW", "fmow_dataset", "FMoWDataset")],
)
def test_images_are_those_of_the_package_resized_first(root: Path, name: str, module: str, attribute: str) -> None:
    """Both of DomainBed's lists of transforms for WILDS, on what the package itself returns."""
    table = getattr(import_wilds(f"wilds.datasets.{module}"), attribute)(root_dir=str(root))
    field = table.metadata_fields.index("hospital" if name == "WILDSCamelyon" else "region")
    index = torch.where(table.metadata_array[:, field] == 1)[0][0]
    picture = table.get_input(index)
    ours = build_dataset(name, str(root))[1].image(0)
    assert isinstance(ours, Image.Image)
    assert ours.size == (224, 224)
    end = [tv.ToTensor(), tv.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    assert torch.equal(ImageTransform()(ours), tv.Compose([tv.Resize((224, 224)), *end])(picture))
    colors = [tv.RandomHorizontalFlip(), tv.ColorJitter(0.3, 0.3, 0.3, 0.3), tv.RandomGrayscale()]
    augment = tv.Compose([tv.Resize((224, 224)), tv.RandomResizedCrop(224, scale=(0.7, 1.0)), *colors, *end])
    torch.manual_seed(3)
    expected = augment(picture)
    torch.manual_seed(3)
    assert torch.equal(ImageTransform(augment=True)(ours), expected)


def test_labels_need_no_image(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "fmow_v1.1", tmp_path / "fmow_v1.1", ignore=shutil.ignore_patterns("*.png"))
    dataset = build_dataset("WILDSFMoW", str(tmp_path))
    assert sum(map(len, dataset)) == 8
    with pytest.raises(UserError, match=r"rgb_img_2\.png cannot be read \(No such file or directory\)"):
        dataset[0].image(0)


def test_bad_images(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "camelyon17_v1.0", tmp_path / "camelyon17_v1.0")
    path = build_dataset("WILDSCamelyon", str(tmp_path))[4].path(0)
    Path(path).write_text("text")
    dataset = build_dataset("WILDSCamelyon", str(tmp_path), on_bad_image="skip")
    assert dataset.skipped == (path,)
    assert dataset[4].targets.tolist() == [1, 0]
    assert np.array(dataset[4].image(0)).shape == (224, 224, 3)


def test_what_is_missing_is_said(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"WILDSFMoW is looked for in .*fmow_v1.1, which is not a folder"):
        build_dataset("WILDSFMoW", str(tmp_path))
    copy = shutil.copytree(root / "camelyon17_v1.0", tmp_path / "camelyon17_v1.0")
    lines = (copy / "metadata.csv").read_text().splitlines()
    (copy / "metadata.csv").write_text("\n".join(lines[:5]))
    with pytest.raises(UserError, match=r"holds hospital_0, hospital_1, hospital_2, hospital_3; WILDSCamelyon has"):
        build_dataset("WILDSCamelyon", str(tmp_path))
    (copy / "metadata.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match=r"the tables in .*camelyon17_v1.0 are not those of WILDSCamelyon"):
        build_dataset("WILDSCamelyon", str(tmp_path))
    (copy / "metadata.csv").unlink()
    with pytest.raises(UserError, match=r"WILDSCamelyon is not whole: .*metadata.csv is missing"):
        build_dataset("WILDSCamelyon", str(tmp_path))
    (copy / "RELEASE_v1.0.txt").unlink()
    with pytest.raises(UserError, match=r"WILDSCamelyon is not whole: .*RELEASE_v1.0.txt is missing"):
        build_dataset("WILDSCamelyon", str(tmp_path))


WATCH = """
import socket, sys, threading

def watch(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.bind", "urllib.Request"):
        print("NETWORK", event, args, flush=True)

sys.addaudithook(watch)
"""


def in_subprocess(code: str) -> list[str]:
    environment = {name: value for name, value in os.environ.items() if name != "OUTDATED_IGNORE"}
    command = [sys.executable, "-c", WATCH + code]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr, "a thread failed"
    return result.stdout.splitlines()


def test_wilds_only_when_asked_and_never_the_network(root: Path) -> None:
    """Importing everything that a run imports, and opening another data set, brings neither wilds nor the network.

    Opening its data then starts no thread and no connection, and leaves environment and Pillow's limit as they were.
    """
    said = in_subprocess(
        "import os\n"
        "from PIL import Image\n"
        "import sfmoe_dg.training.loop, sfmoe_dg.cli.main, sfmoe_dg.data.sets.wilds, sfmoe_dg.data.sets.spawrious\n"
        "from sfmoe_dg.data.build import build_dataset\n"
        "build_dataset('StyledDigits')\n"
        "print('wilds' in sys.modules, 'outdated' in sys.modules)\n"
        "limit, threads = Image.MAX_IMAGE_PIXELS, threading.active_count()\n"
        f"sizes = [len(build_dataset(name, {str(root)!r})) for name in ('WILDSCamelyon', 'WILDSFMoW')]\n"
        "print(sizes, 'wilds' in sys.modules, 'outdated' in sys.modules, threading.active_count() - threads)\n"
        "print(Image.MAX_IMAGE_PIXELS == limit, 'OUTDATED_IGNORE' in os.environ, 'torch_scatter' in sys.modules)\n"
    )
    assert said == ["False False", "[5, 6] True False 0", "True False False"]
