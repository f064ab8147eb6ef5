"""The hash family in torch, against Python integers."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compactrec.embeddings import hash_strings
from compactrec.embeddings.hashing import mix, mix_int, name_salt, salted_hash
from tests.reference import hashing

INT64 = st.integers(-(2**63), 2**63 - 1)


def _signed(word: int) -> int:
    return word - 2**64 if word >= 2**63 else word


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (0, 0xE220A8397B1DCDAF),
        (1, 0x910A2DEC89025CC1),
        (42, 0xBDD732262FEB6E95),
        (2**40, 0x1FDD7128F310C389),
    ],
)
def test_mix_is_golden(x: int, expected: int) -> None:
    assert mix_int(x) == expected
    assert mix(torch.tensor([x])).tolist() == [_signed(expected)]


@pytest.mark.parametrize(
    ("seed", "expected"),
    [
        (0, [527, 215, 428, 264, 112, 553]),
        (1, [79, 303, 613, 457, 591, 346]),
        (7, [610, 207, 290, 546, 357, 265]),
    ],
)
def test_salted_hash_is_golden(seed: int, expected: list[int]) -> None:
    ids = torch.tensor([0, 1, 2, 3, 1_000_000, 2**40 + 5])
    assert salted_hash(ids, _signed(mix_int(seed)), 1000).tolist() == expected


@given(st.lists(INT64, min_size=1, max_size=20), st.integers(0, 2**64 - 1), st.integers(1, 2**40))
def test_salted_hash_equals_python(ids: list[int], seed: int, num_rows: int) -> None:
    rows = salted_hash(torch.tensor(ids), _signed(mix_int(seed)), num_rows)
    assert rows.tolist() == [hashing.hash_id(x, seed, num_rows) for x in ids]


def test_hash_is_uniform_and_salts_are_independent() -> None:
    ids = torch.arange(200_000)
    first, second = (salted_hash(ids, _signed(mix_int(seed)), 1000) for seed in (0, 1))
    counts = torch.bincount(first, minlength=1000).double()
    assert 0.8 <= float(((counts - 200) ** 2 / 200).sum()) / 999 <= 1.2
    assert float((first == second).double().mean()) == pytest.approx(0.001045, abs=1e-6)


@given(st.text(min_size=1, max_size=12), st.integers(0, 2**31))
def test_name_salt_equals_python(name: str, seed: int) -> None:
    assert name_salt(name, seed=seed) == _signed(hashing.mix(hashing.name_seed(name, seed)))


def test_name_salts_are_golden() -> None:
    """They are in people's checkpoints and plans: a change moves every row."""
    assert [name_salt("C1"), name_salt("C2"), name_salt("C1", seed=1)] == [
        _signed(hashing.mix(hashing.name_seed(n, s))) for n, s in (("C1", 0), ("C2", 0), ("C1", 1))
    ]
    assert hashing.name_seed("C1") == GOLDEN_SEED


GOLDEN_SEED = 0x340EEFE401AB5D9D


def test_hash_strings() -> None:
    ids = hash_strings(["", "a", "b", "a", "héllo"])
    assert ids.dtype == torch.int64
    assert (ids >= 0).all()
    assert ids[1] == ids[3]
    assert len(set(ids.tolist())) == 4
    assert ids.tolist() == hash_strings(iter(["", "a", "b", "a", "héllo"])).tolist()
    many = hash_strings(str(i) for i in range(20_000))
    assert many.unique().numel() == 20_000
    assert float((many.double() / 2**63).mean()) == pytest.approx(0.5, abs=0.01)
