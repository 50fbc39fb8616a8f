"""Formats numbers, times and intervals for people."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

NONE = "–"


def number(value: float | None, digits: int = 3) -> str:
    """Formats a number: `0.123`, `12.3`, `1.2e+05`, a true minus; a dash for None and numbers that are not finite."""
    if value is None or not math.isfinite(value):
        return NONE
    if value < 0:
        return "−" + number(-value, digits)
    if value and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.{digits - 1}e}"
    decimals = digits - 1 - math.floor(math.log10(abs(value))) if value else digits - 1
    return f"{value:.{min(max(decimals, 0), digits)}f}"


def signed(value: float | None) -> str:
    """Formats a number with its sign, a true minus."""
    text = number(None if value is None else abs(value))
    return text if value is None or text == NONE else ("−" if value < 0 else "+") + text


def between(interval: Sequence[float] | None, show: Callable[[float | None], str] = number) -> str:
    """Formats an interval, `[0.1, 0.2]`, or returns an empty text for None."""
    return "" if interval is None else f"[{show(interval[0])}, {show(interval[1])}]"


def probability(value: float | None) -> str:
    """Formats a p-value: `.023`, `< .001`."""
    return NONE if value is None else "< .001" if value < 0.001 else f"{value:.3f}".removeprefix("0")


def count(value: int | float) -> str:
    """Formats a count, `12 345`, grouped by thin spaces."""
    return f"{round(value):,}".replace(",", " ")


def duration(seconds: float | None) -> str:
    """Formats seconds as `12 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`."""
    if seconds is None or not math.isfinite(seconds):
        return NONE
    if seconds < 10:
        return f"{seconds:.1f} s"
    left = round(seconds)
    for size, name, below, part in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if left >= size:
            rest = (left % size) // below
            return f"{left // size} {name}" + (f" {rest} {part}" if rest else "")
    return f"{left} s"


def option(value: Any) -> str:
    """Formats the value of an option as one would type it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return ",".join(option(part) for part in value) or "()"
    return "''" if value == "" else str(value)
