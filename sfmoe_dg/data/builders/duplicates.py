"""DomainNet: six archives to six domains, without duplicate images.

DomainBed's repository lists the duplicates (``domainbed/misc/domain_net_duplicates.txt``), one path per line.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from sfmoe_dg.data.builders.archive import safe_path
from sfmoe_dg.data.builders.layouts import find_folder
from sfmoe_dg.foundation.errors import UserError

DUPLICATES_FILE = "domain_net_duplicates.txt"
DUPLICATES = {"clipart": 704, "infograph": 1596, "painting": 3493, "quickdraw": 0, "real": 2380, "sketch": 1258}
"""Lines of the list per domain."""


def prepare(sources: Mapping[str, Path], target: Path) -> list[str]:
    """Move the six extracted archives to ``target/domain/class/file``; returns lines on what was removed."""
    target.mkdir()
    for domain in DUPLICATES:
        root = find_folder(sources[f"{domain}.zip"], [domain], f"{domain}.zip")
        os.rename(root / domain, target / domain)
    return remove_listed(target, sources[DUPLICATES_FILE])


def remove_listed(folder: Path, listed: Path) -> list[str]:
    """Delete the listed files. Returns one line per domain: how many were listed and how many were there.

    Raises:
        UserError: if a line is not a path ``domain/class/file`` of these domains. Nothing is deleted then.
    """
    paths = [line.strip() for line in listed.read_text(encoding="utf-8").splitlines() if line.strip()]
    for path in paths:
        parts = safe_path(path)
        if parts is None or len(parts.parts) != 3 or parts.parts[0] not in DUPLICATES:
            raise UserError(f"{listed} has the line {path!r}, which is not domain/class/file; is it DomainBed's list?")
    removed: Counter[str] = Counter()
    for path in paths:
        if (folder / path).is_file():
            (folder / path).unlink()
            removed[path.split("/")[0]] += 1
    in_list = Counter(path.split("/")[0] for path in paths)
    lines = []
    for domain, known in DUPLICATES.items():
        odd = "" if in_list[domain] == known else f" (DomainBed's list has {known}: this is another list)"
        lines.append(f"{domain}: {removed[domain]} duplicates removed of {in_list[domain]} listed{odd}")
    return lines
