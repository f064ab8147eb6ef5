"""What the Numba kernel alone promises: threads, memory beyond int32, checks, and both kernels."""

import copy
import importlib.util
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from compactrec.embeddings import (
    CompressedEmbeddingBagCollection,
    Feature,
    FullConfig,
    FusedOptimizer,
    Group,
    Plan,
    numba_layout,
)
from compactrec.embeddings.contract import Table
from compactrec.embeddings.fused_tables import choose_kernel
from compactrec.embeddings.init import Init
from compactrec.embeddings.numba_tables import NumbaKernel, divide
from tests.contract.support import make_batch as any_batch

NAMES = ("sgd", "adagrad", "rowwise_adagrad", "adam")
each_name = pytest.mark.parametrize("name", NAMES)
INIT = Init(scale=1)
TABLES = (
    Table("few", 5, 4, INIT),
    Table("many", 70_000, 12, INIT),
    Table("wide", 3_000, 20, INIT),
    Table("never", 9, 8, INIT),
)
PART_TABLES = (0, 1, 1, 2)
"""Two parts read one table, none reads the last."""


def kernel_of(name: str, **settings: Any) -> NumbaKernel:
    kernel = NumbaKernel(TABLES, PART_TABLES, FusedOptimizer(name=name, **settings))  # type: ignore[arg-type]  # a name
    generator = torch.Generator().manual_seed(1)
    for weight in kernel.weights():
        weight.uniform_(-1, 1, generator=generator)
    return kernel


def make_batch(bags: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows with repeats, offsets of bags of 0 to 6 ids, weights of ids, a gradient."""
    generator = torch.Generator().manual_seed(seed)
    values, lengths = [], []
    for table in PART_TABLES:
        counts = torch.randint(0, 7, (bags,), generator=generator)
        uniform = torch.rand(int(counts.sum()), generator=generator, dtype=torch.float64)
        values.append((TABLES[table].num_rows ** uniform).long() - 1)  # mostly few rows
        lengths.append(counts)
    offsets = torch.zeros(bags * len(PART_TABLES) + 1, dtype=torch.int64)
    torch.cumsum(torch.cat(lengths), 0, out=offsets[1:])
    ids = torch.cat(values)
    weights = torch.rand(len(ids), generator=generator) - 0.5
    width = sum(TABLES[t].dim for t in PART_TABLES)
    return ids, offsets, weights, torch.randn(bags, width, generator=generator)


def steps(kernel: NumbaKernel, bags: int, count: int = 3) -> list[Tensor]:
    """What comes of some steps: outputs, weights, states."""
    found = []
    for seed in range(count):
        ids, offsets, weights, grad = make_batch(bags, seed)
        pooled = kernel.look_up(ids, offsets, weights if seed else None)
        pooled.backward(grad)
        found.append(pooled.detach())
    return [*found, *kernel.weights(), *kernel.states().values()]


@each_name
def test_numbers_do_not_depend_on_threads(name: str) -> None:
    found = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(steps(kernel_of(name, weight_decay=0.1), bags=700))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_work_is_divided_without_loss() -> None:
    counts = np.array([10, 4000, 0, 900, 50, 800])
    for threads in (1, 2, 3, 7):
        units = divide(counts, [0, 1, 2, 3, 5], threads)
        assert len(units) == threads
        lines = sorted(tuple(line) for mine in units for line in mine.tolist())
        tables = {t for t, _, _ in lines}
        assert tables == {0, 1, 3, 5}  # 2 has no ids, 4 is constant
        for t in tables:
            pieces = {n for table, _, n in lines if table == t}
            assert len(pieces) == 1
            assert [p for table, p, _ in lines if table == t] == list(range(pieces.pop()))
        loads = [sum(counts[t] / n for t, _, n in mine.tolist()) for mine in units]
        assert max(loads) <= 1.3 * sum(loads) / threads


@each_name
def test_a_table_beyond_two_to_the_31_floats(name: str) -> None:
    """Rows of a table of 2^40 rows, of which the memory around one row is there."""
    kernel, small = kernel_of(name), kernel_of(name)
    shift = 2**39
    kernel._tables = (TABLES[0], Table("many", 2**40, 12, INIT), *TABLES[2:])
    columns = {numba_layout.WEIGHT: 12, numba_layout.STATE1: 12, numba_layout.STATE2: 12}
    if name == "rowwise_adagrad":
        columns[numba_layout.STATE1] = 1
    for column, floats in columns.items():
        kernel._layout[1, column] -= 4 * floats * shift
    kernel._layout[1, numba_layout.ROWS] = 2**40
    ids, offsets, weights, grad = make_batch(50, 0)
    far = ids.clone()
    far[offsets[50] : offsets[150]] += shift
    outs = [k.look_up(i, offsets, weights) for k, i in ((kernel, far), (small, ids))]
    assert torch.equal(outs[0], outs[1])
    for out in outs:
        out.backward(grad)
    for a, b in zip(kernel.weights(), small.weights(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("bad", [-1, 70_000, 2**62])
def test_rows_out_of_range_are_named_and_nothing_is_written(bad: int) -> None:
    kernel = kernel_of("adagrad")
    before = [w.clone() for w in kernel.weights()]
    ids, offsets, _, grad = make_batch(20, 0)
    place = int(offsets[30])
    message = f"row {bad} is out of range in table 'many', which has 70000 rows; build"
    wrong = ids.clone()
    wrong[place] = bad
    with pytest.raises(ValueError, match=message):
        kernel.look_up(wrong, offsets, None)
    assert all(torch.equal(a, b) for a, b in zip(kernel.weights(), before, strict=True))
    pooled = kernel.look_up(ids, offsets, None)
    ids.numpy()[place] = bad  # behind autograd's back
    with pytest.raises(ValueError, match=message):
        pooled.backward(grad)
    for a, b in list(zip(kernel.weights(), before, strict=True))[1:]:
        assert torch.equal(a, b)  # the table before it may have had its step


def test_lengths_and_weights_that_do_not_fit_are_refused() -> None:
    kernel = kernel_of("sgd")
    ids, offsets, weights, _ = make_batch(20, 0)
    with pytest.raises(ValueError, match=r"add up to the \d+ ids of the batch; they add up to"):
        kernel.look_up(ids[:-1], offsets, None)
    falling = offsets.clone()
    falling[3] = -2
    with pytest.raises(ValueError, match="lengths of bags must be 0 or more"):
        kernel.look_up(ids, falling, None)
    with pytest.raises(ValueError, match=r"ids and \d+ weights; give one weight per id"):
        kernel.look_up(ids, offsets, weights[1:])


FEATURES = tuple(
    Feature(name=n, num_ids=r, dim=d, max_bag=3) for n, r, d in (("a", 50, 4), ("b", 31, 12))
)
PLAN = Plan(FEATURES, tuple(Group((f.name,), FullConfig()) for f in FEATURES))


def build(name: str, kernel: str, *, is_weighted: bool = True) -> CompressedEmbeddingBagCollection:
    """Trained weights of ids go with FBGEMM only where no coupled decay does."""
    torch.manual_seed(2)
    optimizer = FusedOptimizer(name=name, weight_decay=0.0 if is_weighted else 0.1)  # type: ignore[arg-type]  # a name
    return CompressedEmbeddingBagCollection(
        PLAN,
        engine="fused",
        optimizer=optimizer,
        kernel=kernel,  # type: ignore[arg-type]  # a string of the parametrisation
        is_weighted=is_weighted,
    )


def train(collection: CompressedEmbeddingBagCollection, seed: int) -> Tensor:
    """One step with weights of ids that are trained as well; their gradient."""
    kjt = any_batch(PLAN, "multi", weighted=True, size=9, seed=seed).kjt()
    kjt.weights().requires_grad_()
    collection(kjt).values().square().sum().backward()
    grad = kjt.weights().grad
    assert grad is not None
    return grad


@pytest.mark.parametrize("name", NAMES[:3])
def test_each_kernel_goes_on_from_the_other(name: str) -> None:
    """Weights, state of the optimizer and the gradients of weights of ids are alike."""
    collections = [build(name, kernel) for kernel in ("numba", "fbgemm")]
    for seed in range(2):
        grads = [train(c, seed) for c in collections]
        torch.testing.assert_close(grads[0], grads[1], rtol=1e-5, atol=1e-6)
        assert grads[0].abs().max() > 0
    states = [{k: v.clone() for k, v in c.optimizer_state_dict().items()} for c in collections]
    crossed = [build(name, kernel) for kernel in ("fbgemm", "numba")]
    for there, here, state in zip(crossed, collections, states, strict=True):
        there.load_state_dict(here.state_dict())
        there.load_optimizer_state_dict(state)
    for seed in range(2, 4):
        for collection in (*collections, *crossed):
            train(collection, seed)
    expected = collections[0].state_dict()
    for other in (collections[1], *crossed):
        for key, value in other.state_dict().items():
            torch.testing.assert_close(value, expected[key], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("kernel", "name"), [("numba", "adam"), ("fbgemm", "adagrad")])
def test_copies_go_on_with_moments_and_steps(kernel: str, name: str) -> None:
    first = build(name, kernel, is_weighted=False)
    batches = [any_batch(PLAN, "multi", size=9, seed=seed).kjt() for seed in range(2)]
    first(batches[0]).values().square().sum().backward()
    first.set_learning_rate(0.3)
    copies = [copy.deepcopy(first), pickle.loads(pickle.dumps(first))]
    for collection in (first, *copies):
        collection(batches[1]).values().square().sum().backward()
    for other in copies:
        assert all(torch.equal(v, first.state_dict()[k]) for k, v in other.state_dict().items())
        for key, value in first.optimizer_state_dict().items():
            assert torch.equal(other.optimizer_state_dict()[key], value)
            assert key.endswith("step") <= (int(value.max()) == 2)


def test_kernels_are_chosen_and_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    sgd, adam = FusedOptimizer(name="sgd"), FusedOptimizer(name="adam")
    assert choose_kernel("auto", adam, cpu) == "numba"
    assert choose_kernel("auto", sgd, cuda) == "fbgemm"
    assert choose_kernel("fbgemm", sgd, cpu) == "fbgemm"
    with pytest.raises(ValueError, match="'numba' runs on cpu, got device 'cuda'; use kernel='fb"):
        choose_kernel("numba", sgd, cuda)
    with pytest.raises(ValueError, match="'adam' of engine='fused' is one of kernel 'numba' alone"):
        choose_kernel("fbgemm", adam, cpu)
    with pytest.raises(ValueError, match="must be 'auto', 'numba' or 'fbgemm', got 'fast'"):
        choose_kernel("fast", sgd, cpu)  # type: ignore[arg-type]  # what a person may write
    with pytest.raises(ValueError, match="'dense_coupled' 'adam' moves every row in every step"):
        FusedOptimizer(name="adam", decay_mode="dense_coupled")
    with pytest.raises(ValueError, match="kernel is for engine='fused', got kernel='numba'"):
        CompressedEmbeddingBagCollection(PLAN, kernel="numba")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert choose_kernel("auto", sgd, cpu) == "fbgemm"
    with pytest.raises(ValueError, match=r"which is not installed; install 'compactrec\[kernels\]"):
        choose_kernel("numba", sgd, cpu)
    with pytest.raises(ValueError, match="needs a cpu and the package numba"):
        choose_kernel("auto", adam, cpu)
