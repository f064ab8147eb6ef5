"""Batch: its promises on copying, its torchrec form, its checks."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.streamable import Pipelineable

from compactrec.data.batch import Batch, register_pipelineable

BAGS = {"a": [[3], [0], [2]], "b": [[], [5, 1], [1, 1, 4]]}


def make_batch(**changes: object) -> Batch:
    """Three examples, two features, the second with bags of 0, 2 and 3 ids."""
    flat = [ids for bags in BAGS.values() for ids in bags]
    fields: dict[str, object] = {
        "dense": torch.arange(6.0).view(3, 2),
        "values": torch.tensor([i for ids in flat for i in ids]),
        "lengths": torch.tensor([len(ids) for ids in flat], dtype=torch.int32),
        "labels": torch.tensor([0.0, 1.0, 1.0]),
        "keys": ("a", "b"),
        "length_per_key": (3, 5),
    }
    return Batch(**(fields | changes))  # type: ignore[arg-type]


def test_kjt_holds_every_bag() -> None:
    kjt = make_batch().kjt()
    assert kjt.stride() == 3
    for key, bags in BAGS.items():
        assert [ids.tolist() for ids in kjt[key].to_dense()] == bags


@pytest.mark.parametrize("per_key", [(3, 5), None])
def test_kjt_feeds_an_embedding_bag_collection(per_key: tuple[int, ...] | None) -> None:
    batch = make_batch(length_per_key=per_key)
    tables = EmbeddingBagCollection(
        tables=[
            EmbeddingBagConfig(name=f"t_{k}", num_embeddings=6, embedding_dim=4, feature_names=[k])
            for k in BAGS
        ]
    )
    out = tables(batch.kjt()).to_dict()
    for key, bags in BAGS.items():
        weight = tables.embedding_bags[f"t_{key}"].weight
        expected = torch.stack([weight[ids].sum(0) for ids in bags])
        torch.testing.assert_close(out[key], expected)


def test_kjt_copies_and_computes_nothing() -> None:
    lengths = torch.tensor([1, 1, 1, 0, 2, 3], dtype=torch.int32)
    offsets = torch.tensor([0, 1, 2, 3, 3, 5, 8], dtype=torch.int32)
    weights = torch.rand(8)
    batch = make_batch(lengths=lengths, offsets=offsets, weights=weights)
    kjt = batch.kjt()
    pairs = [
        (kjt.values(), batch.values),
        (kjt.lengths(), lengths),
        (kjt.offsets(), offsets),
        (kjt.weights(), weights),
    ]
    for ours, given in pairs:
        assert ours.data_ptr() == given.data_ptr()
    assert kjt._length_per_key == [3, 5]


def test_to_moves_every_tensor_and_keeps_the_rest() -> None:
    batch = make_batch(weights=torch.ones(8))
    moved = batch.to("meta", non_blocking=True)
    tensors = (moved.dense, moved.values, moved.lengths, moved.labels, moved.weights)
    assert all(t is not None and t.device.type == "meta" for t in tensors)
    assert moved.offsets is None
    assert (moved.keys, moved.length_per_key) == (batch.keys, batch.length_per_key)
    assert batch.to("cpu").values is batch.values


def test_record_stream_reaches_every_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(
        torch.Tensor, "record_stream", lambda self, stream: seen.append(self.data_ptr())
    )
    batch = make_batch(weights=torch.ones(8))
    batch.record_stream(None)  # type: ignore[arg-type]
    tensors = (batch.dense, batch.values, batch.lengths, batch.labels, batch.weights)
    assert sorted(seen) == sorted(t.data_ptr() for t in tensors if t is not None)


def test_registered_with_torchrec_pipelines() -> None:
    register_pipelineable()
    assert isinstance(make_batch(), Pipelineable)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": torch.zeros(4)}, r"4 labels and 2 features need 8 lengths .* got 6 and 3"),
        ({"dense": torch.zeros(2, 2)}, r"3 dense rows, got 6 and 2"),
        ({"length_per_key": (3, 4)}, r"length_per_key sums to 7 but there are 8 values"),
    ],
)
def test_wrong_shapes_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_batch(**changes)


def test_importing_and_batching_need_no_torchrec() -> None:
    code = (
        "import sys; import compactrec.data.loader; "
        "sys.exit(any(m.split('.')[0] in ('torchrec', 'fbgemm_gpu') for m in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": "src"}).returncode == 0
