"""Empty bags after the others; that training needs them is seen in `test_train_sharded.py`."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from compactrec.benchmarks.pipeline import LossModel
from compactrec.data.batch import KjtBatch
from compactrec.embeddings.equal_batches import pad_bags
from tests.cases import CASES
from tests.contract.support import make_batch
from tests.run_code import run_ranks

CASE = next(case for case in CASES if len(case.plan.features) >= 3)


@pytest.mark.parametrize("weighted", [False, True])
def test_padded_bags_are_the_same_and_empty_ones(weighted: bool) -> None:
    features = make_batch(CASE.plan, "multi", weighted=weighted, seed=3).kjt()
    size = features.stride()
    padded = pad_bags(features, size + 2)
    assert padded.stride() == size + 2
    assert padded.keys() == features.keys()
    assert padded.length_per_key() == features.length_per_key()
    before, after = features.to_dict(), padded.to_dict()
    for key in before:
        assert torch.equal(after[key].values(), before[key].values())
        assert after[key].lengths().tolist() == [*before[key].lengths().tolist(), 0, 0]
        if weighted:
            assert torch.equal(after[key].weights(), before[key].weights())
    assert torch.equal(pad_bags(features, size).lengths(), features.lengths())
    with pytest.raises(ValueError, match=f"have {size} bags, more than the {size - 1} to pad"):
        pad_bags(features, size - 1)


class _Mean(nn.Module):
    """Vectors of the examples less their mean: who else is there would be seen."""

    def __init__(self, tables: EmbeddingBagCollection) -> None:
        super().__init__()
        self.tables = tables

    def forward(self, dense: torch.Tensor, features: object) -> torch.Tensor:
        vectors = self.tables(features).values()
        return (vectors - vectors.mean(0)).sum(1) + dense.sum(1)


def test_the_model_gets_the_vectors_of_the_examples() -> None:
    features = make_batch(CASE.plan, "multi", seed=3).kjt()
    size = features.stride()
    tables = EmbeddingBagCollection(
        tables=[
            EmbeddingBagConfig(
                name=f"t{i}", embedding_dim=4, num_embeddings=int(ids.values().max()) + 1,
                feature_names=[key],
            )
            for i, (key, ids) in enumerate(features.to_dict().items())
            if ids.values().numel() and int(ids.values().max()) < 10_000
        ]
    )  # fmt: skip
    model = LossModel(_Mean(tables), lambda logits, batch: (logits, logits), padded=[tables])
    dense, labels = torch.randn(size, 2), torch.zeros(size)
    expected, _ = model(KjtBatch(dense, features, labels, size))
    found, _ = model(KjtBatch(dense, pad_bags(features, size + 3), labels, size, size + 3))
    assert torch.equal(found, expected)
    assert tables(pad_bags(features, size + 3)).values().shape[0] == size + 3  # only in a step


LOOP = """
import warnings
warnings.simplefilter("error")
warnings.simplefilter("ignore", DeprecationWarning)  # as Python has it
import torch
import torch.distributed as dist
from torchrec import KeyedJaggedTensor
from compactrec.embeddings import CompressedEmbeddingBagCollection, Feature, full_plan
from compactrec.embeddings import dense_parameters
from compactrec.embeddings.sharding import shard
from compactrec.embeddings.sharding_config import Sharding

SIZES = {"a": 50, "b": 300, "c": 7, "d": 90}
KINDS = {"t_a.*": "row_wise", "t_b.*": "table_wise", "t_c.*": "data_parallel", "t_d.*": "row_wise"}

class Clicks(torch.nn.Module):
    def __init__(self):
        super().__init__()
        plan = full_plan([Feature(name=n, num_ids=size, dim=8) for n, size in SIZES.items()])
        self.embeddings = CompressedEmbeddingBagCollection(plan, engine="sharded")
        self.top = torch.nn.Linear(32, 1)

    def forward(self, features):
        return self.top(self.embeddings(features).values())

dist.init_process_group("gloo")
torch.manual_seed(dist.get_rank())  # whoever sets no seed has others in every process
model = shard(Clicks(), Sharding.model_validate({"tables": KINDS}))
optimizer = torch.optim.SGD(dense_parameters(model), lr=0.1)
for size in SIZES_OF_BATCHES[dist.get_rank()]:
    ids = torch.cat([torch.arange(size) % n for n in SIZES.values()])
    lengths = torch.ones(len(SIZES) * size, dtype=torch.long)
    features = KeyedJaggedTensor(list(SIZES), ids, lengths=lengths)
    with torch.no_grad():
        model(features)
    optimizer.zero_grad()
    model(features).mean().backward()
    optimizer.step()
replicated = model.module.embeddings.tables.embedding_bags["t_c__id"].weight
print("ended", replicated.sum().item(), len(replicated))
"""


@pytest.mark.dist
def test_a_loop_of_ones_own_is_quiet_and_says_which_batches_differ(tmp_path: Path) -> None:
    sizes = [[6, 5, 6], [6, 5, 4]]
    ended = run_ranks(f"SIZES_OF_BATCHES = {[rank[:2] for rank in sizes]}{LOOP}", tmp_path, 120)
    assert [(status, errors) for status, _, errors in ended] == [(0, "")] * 2
    assert re.fullmatch(r"ended \S+ 7\n", ended[0][1])
    assert ended[0][1] == ended[1][1], "replicated weights are not equal"
    ended = run_ranks(f"SIZES_OF_BATCHES = {sizes}{LOOP}", tmp_path, 120)
    for size, (status, _, errors) in zip((6, 4), ended, strict=True):
        assert status == 1
        assert (
            f"ValueError: training batches are of 4 to 6 examples, of {size} in this process, and "
            f"where rows of tables are spread over gloo all processes must have as many: look up "
            f"pad_bags(features, 6), of compactrec.embeddings.equal_batches, and take the first "
            f"{size} rows of the vectors; or drop the batch, or shard table_wise"
        ) in errors
