"""Random widths while training: what is masked is zero, what is kept is the table's."""

import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from compactrec.embeddings.search.optembed import OptEmbedSupernet
from compactrec.embeddings.search.prefix_mask import PrefixMask, prefix_masks
from tests.search.support import DIM, FEATURES, batch_of, make_task

NUM_EXAMPLES = 200
PLAIN = [i for i, f in enumerate(FEATURES) if f.name == "b"]
SEARCHED = [i for i, f in enumerate(FEATURES) if f.name != "b"]


def check_masked(out: Tensor, whole: Tensor) -> None:
    """``out`` is ``whole`` on a width of leading columns, one for every example and feature."""
    widths = (out != 0).sum(2)
    expected = whole * prefix_masks(widths, DIM)
    assert torch.equal(out, expected)
    assert torch.equal(out[:, PLAIN], whole[:, PLAIN])
    there = (whole != 0).all(2).all(1)
    assert int(there.sum()) > NUM_EXAMPLES // 3
    for feature in SEARCHED:
        assert set(widths[there, feature].tolist()) == set(range(1, DIM + 1))
    assert not torch.equal(widths[there][:, SEARCHED[0]], widths[there][:, SEARCHED[1]])


def pooled_rows(tables: dict[str, Tensor], batch: KeyedJaggedTensor) -> Tensor:
    """``(B, F, D)``: plain sums of the rows of every bag."""
    vectors = []
    for feature in FEATURES:
        jagged = batch[feature.name]
        bag = torch.repeat_interleave(torch.arange(batch.stride()), jagged.lengths())
        rows = tables[feature.name][jagged.values()]
        vectors.append(torch.zeros(batch.stride(), DIM).index_add(0, bag, rows))
    return torch.stack(vectors, dim=1)


def test_while_training_every_example_and_feature_sees_a_prefix() -> None:
    torch.manual_seed(0)
    layer = PrefixMask(torch.tensor([f.name != "b" for f in FEATURES]), DIM).train()
    vectors = torch.rand(NUM_EXAMPLES, len(FEATURES), DIM) + 1
    out = layer(vectors)
    check_masked(out, vectors)
    assert not torch.equal(layer(vectors), out), "widths are drawn again every step"


def test_the_supernet_trains_on_prefixes_of_its_rows() -> None:
    torch.manual_seed(0)
    net = OptEmbedSupernet(make_task("optembed"))
    with torch.no_grad():
        for threshold in net.architecture_parameters():
            threshold.fill_(-1.0)
    batch = batch_of(size=NUM_EXAMPLES)
    whole = net.eval().stacked(net(batch)).detach()
    torch.testing.assert_close(whole, pooled_rows(net.raw_tables(), batch))
    check_masked(net.train().stacked(net(batch)).detach(), whole)


def test_columns_that_are_not_seen_get_no_gradient() -> None:
    torch.manual_seed(0)
    layer = PrefixMask(torch.tensor([True]), DIM).train()
    vectors = torch.ones(NUM_EXAMPLES, 1, DIM, requires_grad=True)
    out = layer(vectors)
    (gradient,) = torch.autograd.grad(out.sum(), vectors)
    assert torch.equal(gradient, out.detach())
    assert float(gradient.min()) == 0.0
