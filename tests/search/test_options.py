"""Options that no search takes."""

import json
import math
from typing import Any

import pytest

from compactrec.embeddings.search import get_search, search_names
from compactrec.embeddings.search.base import parse_search_options

NOT_FINITE = (math.nan, math.inf, -math.inf)


def number_options() -> list[tuple[str, str, bool]]:
    """Every option of every search that takes a number, and whether it takes several."""
    found = []
    for search in search_names():
        properties = get_search(search).options.model_json_schema()["properties"]
        for name, schema in properties.items():
            text = json.dumps(schema)
            if '"number"' in text or '"integer"' in text:
                found.append((search, name, '"array"' in text))
    return found


def values_of(value: float, several: bool) -> Any:
    return [1.0, value] if several else value


def test_every_search_has_an_option_that_is_a_number() -> None:
    assert {search for search, _, _ in number_options()} == {*search_names()}


@pytest.mark.parametrize("value", NOT_FINITE)
@pytest.mark.parametrize(("search", "name", "several"), number_options())
def test_numbers_that_are_not_finite_are_refused(
    search: str, name: str, several: bool, value: float
) -> None:
    problem = rf"{search}: option {name}\b.*(finite number|1 or 2), got .*options are: "
    with pytest.raises(ValueError, match=problem):
        parse_search_options(get_search(search), {name: values_of(value, several)})


@pytest.mark.parametrize("search", search_names())
def test_every_search_refuses_what_it_does_not_know(search: str) -> None:
    with pytest.raises(ValueError, match=f"{search}: option nothing: there is no such field"):
        parse_search_options(get_search(search), {"nothing": 1})


@pytest.mark.parametrize("temperatures", [[1, -1], [0, 1], [1, 0], [-1, -1]])
def test_temperatures_of_ihas_are_above_0(temperatures: list[float]) -> None:
    with pytest.raises(ValueError, match=r"ihas: option temperatures\.[01]: .* greater than 0"):
        parse_search_options(get_search("ihas"), {"temperatures": temperatures})
    options = parse_search_options(get_search("ihas"), {"temperatures": [1, 0.1]})
    assert options.temperatures == (1.0, 0.1)  # type: ignore[attr-defined]
