"""Layout: segments follow each other without gaps, and a private run sends the update alone."""

import pytest

from fedsus.encoding import Layout


def segments(layout):
    return [layout.update, layout.weight, layout.saturated, layout.totals, layout.held_out, layout.costs]


@pytest.mark.parametrize(
    ("layout", "lengths"),
    [
        (Layout(10, 3, private=False), [10, 1, 1, 3, 1, 0]),
        (Layout(10, 3, private=False, reported=4), [10, 1, 1, 3, 1, 4]),
        (Layout(10, 0, private=False), [10, 1, 1, 0, 1, 0]),
        (Layout(10, 3, private=True), [10, 0, 0, 0, 0, 0]),
        (Layout(10, 3, private=False, purpose="evaluate"), [0, 0, 0, 3, 1, 0]),
        (Layout(10, 3, private=False, purpose="evaluate", reported=4), [0, 0, 0, 3, 1, 4]),
    ],
)
def test_segments(layout, lengths):
    assert [part.stop - part.start for part in segments(layout)] == lengths
    assert layout.size == sum(lengths)
    borders = [0, *[part.stop for part in segments(layout)]]
    assert [part.start for part in segments(layout)] == borders[:-1]
