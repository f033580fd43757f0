"""Figures as people read them: time spans and sizes, in all commands.

Pure. The page writes them in the same form (`static/text.js`; a test compares).
"""

from typing import Final

_UNITS: Final = (("GB", 1 << 30), ("MB", 1 << 20), ("KB", 1 << 10))


def duration(seconds: float) -> str:
    """Return a time span with two significant units: `12 ms`, `0.3 s`, `45 s`, `3 min 20 s`, `2 h 5 min`."""
    seconds = max(0.0, seconds)
    if seconds < 0.0995:
        return f"{seconds * 1000:.0f} ms" if seconds >= 0.0005 else "0 s"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, below, factor, smaller in (("min", 3600, 60, "s"), ("h", 86_400, 3600, "min"), ("d", 0, 86_400, "h")):
        if whole < 60:
            return f"{whole} s"
        if not below or whole < below:
            many, rest = divmod(whole, factor)
            less = rest // {"s": 1, "min": 60, "h": 3600}[smaller]
            return f"{many} {unit} {less} {smaller}" if less else f"{many} {unit}"
    raise AssertionError("the last unit has no bound")


def short_duration(seconds: float) -> str:
    """Return a time span in at most six characters: `0.3s`, `45s`, `3:20`, `2:05h`, `12d`."""
    seconds = max(0.0, seconds)
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02}"
    if whole < 100 * 3600:
        return f"{whole // 3600}:{whole // 60 % 60:02}h"
    return f"{whole // 86_400}d"


def rough_duration(seconds: float) -> str:
    """Return a time span in its largest usual unit."""
    if seconds < 90:
        return f"{max(0.0, seconds):.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 48 * 3600 else f"{seconds / 86_400:.0f} days"


def size(count: int) -> str:
    """Return a number of bytes in a unit that suits it."""
    return next((f"{count / scale:.3g} {unit}" for unit, scale in _UNITS if count >= scale), f"{count} bytes")
