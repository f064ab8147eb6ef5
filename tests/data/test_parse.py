"""A line that is too short and one that is too long do not make up for each other."""

from __future__ import annotations

import pytest

from compactrec.data.parse import parse_block
from compactrec.data.schema import Layout
from compactrec.data.source import Block

FIELDS = ("y", "a", "c")


@pytest.mark.parametrize("delimiter", [",", "::"])
@pytest.mark.parametrize("wanted", [["y", "a"], ["a"], ["c", "y"], ["y", "a", "c"]])
@pytest.mark.parametrize("lines", [["0,b", "1,d,e,f"], ["1,d,e,f", "0,b"], ["1", "1,2,3,4,5"]])
def test_ragged_lines_of_the_right_total(
    delimiter: str, wanted: list[str], lines: list[str]
) -> None:
    content = "\n".join(["1,a,c", *lines, "0,g,h", ""]).replace(",", delimiter)
    layout = Layout(delimiter=delimiter, header=False, fields=FIELDS)
    rows = parse_block(Block("f", 1, content.encode(), 4), layout, FIELDS, wanted)
    assert [bad.line for bad in rows.bad] == [2, 3]
    assert rows.line_index().tolist() == [0, 3]
    good = [dict(zip(FIELDS, line, strict=True)) for line in ("1ac", "0gh")]
    assert rows.frame.to_dicts() == [{name: row[name] for name in wanted} for row in good]
