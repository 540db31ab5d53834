"""The names of CUB-DG's folder and files, and of the domain of photos."""

FOLDER = "CUB_DG"
MANIFEST = "manifest.json"
TABLE = "annotations.parquet"
NATURAL = "Natural"
