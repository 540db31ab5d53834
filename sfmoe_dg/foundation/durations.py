"""Durations in words."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """Seconds in their one or two largest units: '45 s', '12 min', '3 h 05 min', '4 d 07 h'."""
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{hours // 24} d {hours % 24:02} h"
