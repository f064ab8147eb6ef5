"""What the compiled loops of the fused engine's Numba kernel take: layouts, all int64.

``tables``, one line per table and one more: the columns :data:`WEIGHT` .. :data:`FIRST_PART`;
addresses are of float32 memory. ``parts``, one line per part: its table, its first column of the
output. ``values`` are rows, part by part and bag by bag; ``offsets`` where bags begin, parts x bags
+ 1. The output and its gradient are ``(bags, stride)``.

A function returns -1, or the place in ``values`` of a row that is out of range, before it uses that
row. Nothing else is checked: offsets must rise from 0 to the number of values, and addresses hold
what the layout says.
"""

__all__ = [
    "ADAGRAD",
    "ADAM",
    "AHEAD",
    "DIM",
    "FIRST_PART",
    "LINE",
    "ROWS",
    "ROWWISE_ADAGRAD",
    "SGD",
    "STATE1",
    "STATE2",
    "WEIGHT",
]

WEIGHT, STATE1, STATE2, DIM, ROWS, FIRST_PART = range(6)
SGD, ADAGRAD, ROWWISE_ADAGRAD, ADAM = range(4)
AHEAD = 16
"""How many rows ahead memory is asked for."""
LINE = 16
"""Floats per cache line."""
