"""One pass over columns gives the numbers and the gradients of torch's own operations."""

import pytest
import torch
from torch import Tensor

from compactrec.embeddings import columns
from compactrec.embeddings.combines import Concat, Product, Project, Select, Subtract, Sum
from compactrec.embeddings.contract import Output, Slot
from compactrec.embeddings.logical import LogicalCombine
from tests.cases import CASES
from tests.contract.support import build, make_batch
from tests.methods.base import Case

numba_columns = pytest.importorskip(
    "compactrec.embeddings.numba_columns", reason="without Numba there is one way only"
)
each_case = pytest.mark.parametrize("case", CASES, ids=str)


def gradients(leaves: list[Tensor], out: Tensor) -> list[Tensor]:
    weight = torch.linspace(-1.0, 1.0, out.numel()).view_as(out)
    found = torch.autograd.grad((out * weight).sum(), leaves, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(leaves, found, strict=True)]


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize(("bags", "size"), [("multi", 150), ("single", 70), ("empty", 3)])
@each_case
def test_the_numbers_and_gradients_of_every_method(
    case: Case, bags: str, size: int, weighted: bool
) -> None:
    collection = build(case.plan, is_weighted=weighted)
    batch = make_batch(case.plan, bags, weighted=weighted, size=size).kjt()  # type: ignore[arg-type]  # a name
    leaves = [p for p in collection.parameters() if p.requires_grad]
    collection.combine.compiled = False
    expected = collection(batch).values()
    of_expected = gradients(leaves, expected)
    collection.combine.compiled = True
    found = collection(batch).values()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    for mine, theirs in zip(gradients(leaves, found), of_expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def everything() -> LogicalCombine:
    """Every kind of term, lanes, padding, several positions, and a column that nothing reads."""
    two = (Slot(("p",), 6), Slot(("q",), 6))
    more = (Slot(("p2",), 6), Slot(("q2",), 6))
    lanes = (Slot(("l0", "l1"), 2), Slot(("w",), 6))
    outputs = [
        Output("a", "a", 6, (two, more), Product()),
        Output("b", "b", 6, (lanes,), Project([2, 6], 6)),
        Output("c", "c", 6, (two,), Sum()),
        Output("d", "d", 6, (two,), Subtract()),
        Output("e", "e", 8, ((Slot(("w",), 6), Slot(("l0", "l1"), 2)),), Concat()),
        Output("f", "f", 4, ((Slot(("w",), 4),),), Select()),
        Output("g", "g", 20, ((Slot(("q",), 8), Slot(("p2",), 3)),), Project([8, 3], 20)),
        Output("h", "h", 32, ((Slot(("w",), 8),),), Project([8], 32)),
    ]
    return LogicalCombine(outputs)


KEYS = ("w", "q", "l0", "p", "unread", "q2", "l1", "p2")
DIMS = (8, 8, 4, 8, 4, 8, 4, 8)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("num_rows", [0, 1, 63, 64, 65, 1500])
def test_every_kind_of_term(num_rows: int, threads: int) -> None:
    combine = everything()
    values = torch.randn(num_rows, sum(DIMS), requires_grad=True)
    leaves = [values, *combine.parameters()]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = combine(values, KEYS, DIMS)
        assert found.grad_fn is not None
        assert "_Columns" in found.grad_fn.name()
        of_found = gradients(leaves, found)
    finally:
        torch.set_num_threads(before)
    combine.compiled = False
    expected = combine(values, KEYS, DIMS)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    for mine, theirs in zip(of_found, gradients(leaves, expected), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-4)


def test_threads_do_not_change_a_bit() -> None:
    combine = everything()
    values = torch.randn(3000, sum(DIMS), requires_grad=True)
    leaves = [values, *combine.parameters()]
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            out = combine(values, KEYS, DIMS)
            found.append([out, *gradients(leaves, out)])
    finally:
        torch.set_num_threads(before)
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_other_keys_make_another_program() -> None:
    combine = everything()
    values = torch.randn(5, sum(DIMS))
    expected = combine(values, KEYS, DIMS)
    backwards = values.split(DIMS, dim=1)[::-1]
    found = combine(torch.cat(backwards, dim=1), KEYS[::-1], DIMS[::-1])
    torch.testing.assert_close(found, expected)


def test_where_nothing_moves_nothing_is_copied() -> None:
    outputs = [
        Output(name, name, 8, ((Slot((f"{name}__id",), 8),),), Select()) for name in ("x", "y")
    ]
    values = torch.randn(4, 16)
    found = LogicalCombine(outputs)(values, ("x__id", "y__id"), (8, 8))
    assert found.data_ptr() == values.data_ptr()


def test_without_numba_torch_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "has_numba", lambda: False)
    found = everything()(torch.randn(5, sum(DIMS), requires_grad=True), KEYS, DIMS)
    assert found.grad_fn is not None
    assert "_Columns" not in found.grad_fn.name()


def test_kinds_have_the_numbers_of_the_loops() -> None:
    assert list(columns._KINDS.values()) == [
        numba_columns.ADD, numba_columns.SUBTRACT, numba_columns.MULTIPLY, numba_columns.PROJECT,
    ]  # fmt: skip


def test_other_types_are_left_to_torch() -> None:
    combine = everything().double()
    values = torch.randn(5, sum(DIMS), dtype=torch.float64, requires_grad=True)
    found = combine(values, KEYS, DIMS)
    assert found.dtype == torch.float64
    assert torch.autograd.gradcheck(lambda x: combine(x, KEYS, DIMS), values)
