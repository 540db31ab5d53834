"""Make small versions of Camelyon17-WILDS and FMoW-WILDS in their real layouts."""

from __future__ import annotations

from pathlib import Path

from image_trees import write_image

FMOW_CATEGORIES = ("zoo", "airport", "wind_farm")
FMOW_ROWS = [
    # split, category, country, year; the first region to appear is region_0, and sequestered rows count
    ("seq", "airport", "FRA", 2010),
    ("train", "zoo", "CHN", 2005),
    ("train", "airport", "FRA", 2006),
    ("val", "zoo", "CHN", 2014),
    ("test", "wind_farm", "KEN", 2017),
    ("train", "zoo", "BRA", 2008),
    ("seq", "zoo", "BRA", 2009),
    ("train", "zoo", "AUS", 2016),
    ("test", "airport", "XYZ", 2012),
    ("train", "airport", "CHN", 2015),
]
FMOW_REGIONS = {"CHN": "Asia", "FRA": "Europe", "KEN": "Africa", "BRA": "Americas", "AUS": "Oceania"}


def write_camelyon(root: Path) -> Path:
    """Three patches of each of five hospitals, hospitals in turn; returns the data set's folder."""
    folder = root / "camelyon17_v1.0"
    lines = [",patient,node,x_coord,y_coord,tumor,slide,center,split"]
    for i in range(15):
        patient, x, y = f"{i % 5:03d}", 100 + i, 200
        lines.append(f"{i},{patient},{i % 3},{x},{y},{i // 5 % 2},{i % 5},{i % 5},0")
        name = f"patient_{patient}_node_{i % 3}"
        write_image(folder / "patches" / name / f"patch_{name}_x_{x}_y_{y}.png", seed=i, size=(96, 96))
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    (folder / "RELEASE_v1.0.txt").touch()
    return folder


def write_fmow(root: Path) -> Path:
    """The rows above; returns the data set's folder."""
    folder = root / "fmow_v1.1"
    lines = ["split,category,country_code,timestamp"]
    for i, (split, category, country, year) in enumerate(FMOW_ROWS):
        lines.append(f"{split},{category},{country},{year}-06-01T10:00:00Z")
        if split != "seq":
            write_image(folder / "images" / f"rgb_img_{i}.png", seed=i, size=(224, 224))
    (folder / "rgb_metadata.csv").write_text("\n".join(lines) + "\n")
    regions = [f"{country},{region}" for country, region in FMOW_REGIONS.items()]
    (folder / "country_code_mapping.csv").write_text("\n".join(["alpha-3,region", *regions]) + "\n")
    (folder / "RELEASE_v1.1.txt").touch()
    return folder
