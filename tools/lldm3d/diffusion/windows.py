"""Volumes drawn window by window, up and down from where they begin (GEM-3D, Make-A-Volume; SYSTEMS part H)."""

from collections.abc import Iterator
from dataclasses import dataclass

from lldm3d.errors import UserError


@dataclass(frozen=True)
class Window:
    """Some slices of a volume that are drawn at once, by their numbers in the volume."""

    first: int
    new: tuple[int, ...]  # which it writes
    held: tuple[int, ...]  # which are there, and stay
    informed: int | None  # the slice that all see; None where none is there


def windows(depth: int, size: int, start: int | None = None, held: bool = True, overlap: int = 1) -> Iterator[Window]:
    """The windows of a volume of `depth` slices, from its start up, and then down from it; each slice is written once.

    A window begins with the last slices of the one before. At an end of the volume it lies within it, and holds all
    that is there, each slice at its own depth.

    Args:
        size: slices of a window.
        start: the slice from which the volume begins; None: the lowest one.
        held: whether the start is there before.
        overlap: slices that windows share; 0: they hold nothing, and do not know of each other.

    Raises:
        UserError: where a volume has fewer slices than a window, or no such start, or windows share all slices.
    """
    if type(size) is not int or not 0 <= overlap < size:
        raise UserError(f"--window {size}, --overlap {overlap}: windows share from 0 to less than all of their slices")
    if depth < size:
        raise UserError(
            f"has {depth} slices, fewer than the {size} of a window; give a label of more, or a smaller --window"
        )
    if start is not None and not (type(start) is int and 0 <= start < depth):
        raise UserError(f"has {depth} slices, numbered from 0; --start_slice {start} lies outside")
    low = start or 0  # slices from low to high - 1 are there
    high = low + 1 if start is not None and held else low

    def window(first: int, informed: int) -> Window:
        there = range(max(first, low), min(first + size, high)) if overlap else ()
        new = [number for number in range(first, first + size) if not low <= number < high]
        return Window(first, tuple(new), tuple(there), informed if overlap and high > low else None)

    while high < depth:
        first = max(0, min(high - overlap if high > low else high, depth - size))
        yield window(first, high - 1)
        low, high = min(low, first), first + size
    while low > 0:
        first = max(0, min(low + overlap, depth) - size)
        yield window(first, low)
        low = first
