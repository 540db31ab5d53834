"""How a data set is made, and making it: download → extract → prepare → manifest → rename.

Everything happens in hidden folders of the target's parent, so a folder under its own name is always whole. An
interrupted build goes on with the archives and extracted folders that are whole.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sfmoe_dg.data.builders.archive import BadArchiveError, extract
from sfmoe_dg.data.builders.download import digests, download, mismatch
from sfmoe_dg.data.builders.layouts import Counts, count_image_folders, image_folders
from sfmoe_dg.data.builders.manifest import NAME, write_manifest
from sfmoe_dg.data.catalog import facts
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.files import read_json, write_atomic
from sfmoe_dg.foundation.locks import file_lock

Prepare = Callable[[Mapping[str, Path], Path], Sequence[str]]
"""From what the sources became (by their ``file``: an extracted folder, or the file itself) to the new folder; returns
what the user should know."""


@dataclass(frozen=True)
class Source:
    """One file that a data set is made of.

    Attributes:
        url: where a program can try to get it.
        file: its name here.
        page: where a person can get it.
        sha256, md5: None: not known to us; then what the first download had is what later ones must have.
        extract: False: handed to ``prepare`` as it is.
        option: a command-line option of its own for a copy the user has, besides ``--archive``.
    """

    url: str
    file: str
    page: str
    sha256: str | None = None
    md5: str | None = None
    extract: bool = True
    option: str = ""

    @property
    def by_hand(self) -> str:
        option = f"--{self.option}" if self.option else "--archive"
        return f"get {self.file} by hand from {self.page} and give it with {option} FILE"


@dataclass(frozen=True)
class Recipe:
    """One data set.

    Attributes:
        name: as in the catalog, where it is there.
        folder: where it lies under the data folder.
        sources: the files it is made of.
        prepare: makes the folder from them.
        domains: what ``count`` must find.
        published: images per domain of the complete published copy; empty if not known.
        num_classes: 0: not checked.
        known_totals: other numbers of images that are known to occur, with the reason.
        count: images per domain and class of a folder.
    """

    name: str
    folder: str
    sources: tuple[Source, ...]
    prepare: Prepare
    domains: tuple[str, ...]
    published: Mapping[str, int] = field(default_factory=dict)
    num_classes: int = 0
    known_totals: Mapping[int, str] = field(default_factory=dict)
    count: Callable[[Path], Counts] = count_image_folders


def from_catalog(
    name: str,
    *sources: Source,
    prepare: Prepare | None = None,
    count: Callable[[Path], Counts] = count_image_folders,
    known_totals: Mapping[int, str] | None = None,
) -> Recipe:
    """The recipe of a data set whose folder, domains, classes and counts are in the catalog.

    Args:
        prepare: None: the archive holds the domains' folders, which are taken as they are.
    """
    entry = facts(name)
    return Recipe(
        name=name,
        folder=entry.folder,
        sources=sources,
        prepare=prepare or image_folders(entry.domains),
        domains=entry.domains,
        published=dict(zip(entry.domains, entry.counts, strict=True)) if entry.counts else {},
        num_classes=entry.num_classes,
        known_totals=known_totals or {},
        count=count,
    )


def google_drive(file_id: str, file: str) -> Source:
    """A file on Google Drive; the address skips the page that warns of large files, as long as Google allows it."""
    return Source(
        url=f"https://drive.usercontent.google.com/download?id={file_id}&export=download&confirm=t",
        file=file,
        page=f"https://drive.google.com/uc?id={file_id}",
    )


def build(
    recipe: Recipe,
    out: Path,
    *,
    given: Mapping[str, Path] | None = None,
    sha256: Mapping[str, str] | None = None,
    keep_archive: bool = False,
    progress: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> bool:
    """Make ``out/recipe.folder``; False if it was made before.

    Args:
        given: files that the user has, by ``Source.file``; never deleted.
        sha256: checksums the user knows, by ``Source.file``.
        keep_archive: leave downloads in ``out/archives``.
        tell: is called with one line per thing to know.

    Raises:
        UserError: if a download, an archive or the preparation fails, or if the folder was not built by this function.
    """
    target, work, archives = out / recipe.folder, out / f".building-{recipe.folder}", out / "archives"
    if _is_built(target):
        return False
    for file, path in (given or {}).items():
        if not path.is_file():
            raise UserError(f"{path} is not a file; give the copy of {file} that you have")
    with file_lock(work / ".lock", busy=f"another process is building {recipe.name} in {out}; wait for it"):
        if _is_built(target):  # by another process, between the question above and the lock
            shutil.rmtree(work, ignore_errors=True)
            return False
        if (work / "ready").exists():  # interrupted while files were moved from one to the other
            _clear(work)
        kept = _Kept(out, recipe, given or {}, sha256 or {}, progress, tell)
        files = {source.file: kept.obtain(source, archives / source.file) for source in recipe.sources}
        for source in recipe.sources:
            if source.extract:
                files[source.file] = kept.extracted(source, files[source.file], work)
        for line in recipe.prepare(files, work / "ready"):
            tell(line)
        write_manifest(work / "ready", progress)
        kept.remember()
        os.replace(work / "ready", target)
        shutil.rmtree(work, ignore_errors=True)
    if not keep_archive:
        for source in recipe.sources:
            (archives / source.file).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # other data sets' archives may be there
            archives.rmdir()
    return True


def _is_built(target: Path) -> bool:
    """Refuses a folder that holds something else."""
    if (target / NAME).exists():
        return True
    if target.is_dir() and any(target.iterdir()):
        raise UserError(f"{target} exists and was not built here; check it with --verify, or move it away to build it")
    return False


def _clear(work: Path) -> None:
    for item in work.iterdir():
        if item.is_dir():
            shutil.rmtree(item)


class _Kept:
    """Gets sources, and keeps in ``out/.sources/NAME.json`` what they were, so that a changed file is noticed."""

    def __init__(
        self,
        out: Path,
        recipe: Recipe,
        given: Mapping[str, Path],
        sha256: Mapping[str, str],
        progress: bool,
        tell: Callable[[str], None],
    ) -> None:
        self.given, self.sha256, self.progress, self.tell = given, sha256, progress, tell
        self.path = out / ".sources" / f"{recipe.folder}.json"
        self.known: dict[str, dict[str, object]] = read_json(self.path) if self.path.exists() else {}

    def obtain(self, source: Source, place: Path) -> Path:
        """The file on disk, with the checksum it should have."""
        expected, md5 = self._expected(source)
        if source.file in self.given:
            path = self.given[source.file]
            found = digests(path, self.progress)
        elif place.exists():
            path, found = place, digests(place, self.progress)
        else:
            path = place
            found = download(
                source.url, place, sha256=expected, md5=md5, by_hand=source.by_hand, progress=self.progress
            )
        fault = mismatch(found, expected, md5)
        if fault:
            raise UserError(
                f"{path} is not the expected {source.file}: {fault}; {source.by_hand}, or accept it with "
                f"--sha256 {source.file}={found.sha256}"
            )
        self.tell(f"{source.file}: {found.size} bytes, sha256 {found.sha256}")
        origin = str(path) if source.file in self.given else source.url
        self.known[source.file] = {"from": origin, "size": found.size, "sha256": found.sha256}
        return path

    def extracted(self, source: Source, archive: Path, work: Path) -> Path:
        """The folder from an archive; a download that is no good is put aside, so that it is not used again.

        Its name holds the archive's checksum, so that what was unpacked from another archive is not taken for it.
        """
        folder = work / f"{source.file}.{str(self.known[source.file]['sha256'])[:16]}"
        if folder.exists():
            return folder
        try:
            return extract(archive, folder, progress=self.progress)
        except BadArchiveError as error:
            if archive in self.given.values():
                raise
            bad = archive.with_name(archive.name + ".bad")
            os.replace(archive, bad)
            raise UserError(f"{error}; it is kept as {bad}") from None

    def _expected(self, source: Source) -> tuple[str | None, str | None]:
        """SHA-256 and MD5: the user's word counts most, then what we know, then what was there last time."""
        if source.file in self.sha256:
            return self.sha256[source.file], None
        if source.sha256 or source.md5:
            return source.sha256, source.md5
        before = self.known.get(source.file, {}).get("sha256")
        return (str(before) if before else None), None

    def remember(self) -> None:
        """Keep what the files were; only now, since they have turned out to be good."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self.path, json.dumps(self.known, indent=2, sort_keys=True) + "\n")
