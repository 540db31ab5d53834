"""Read the levels of findings."""

from __future__ import annotations

from collections.abc import Iterator

from sfmoe_dg.doctor.findings import Finding, Level


def levels(findings: Iterator[Finding]) -> list[Level]:
    return [finding.level for finding in findings]
