"""From an update to integers mod 2**bits and back: layout, fixed point, packing."""

from fedsus.encoding.layout import Layout
from fedsus.encoding.mechanism import FixedPoint, Mechanism
from fedsus.encoding.packing import add_packed, pack, packed_size, unpack

__all__ = ["FixedPoint", "Layout", "Mechanism", "add_packed", "pack", "packed_size", "unpack"]
