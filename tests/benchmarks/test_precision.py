"""bfloat16 is for the dense part alone, and for machines that have it."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from compactrec.benchmarks import precision
from compactrec.benchmarks.config import TrainConfig
from compactrec.benchmarks.model import build_model
from compactrec.benchmarks.optimizers import Optimizers
from compactrec.benchmarks.precision import DenseDtype, compute_in, has_bfloat16
from compactrec.embeddings import CompressedEmbeddingBagCollection
from tests.cases import CASES
from tests.contract.support import build, make_batch
from tests.methods.base import Case

each_case = pytest.mark.parametrize("case", CASES, ids=str)


@pytest.fixture
def any_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: True)


def config(dtype: DenseDtype) -> TrainConfig:
    return TrainConfig(
        data=Path("-"), out=Path("-"), method="full", bottom=(16,), top=(16, 1), dense_dtype=dtype,
        dense_learning_rate=0.01,
    )  # fmt: skip


def losses(case: Case, dtype: DenseDtype) -> tuple[list[float], nn.Module]:
    model, collections = build_model(config(dtype), case.plan, 3)
    optimizers = Optimizers(model, collections, config(dtype))
    batch = make_batch(case.plan, "single", size=32).kjt()
    generator = torch.Generator().manual_seed(4)
    dense = torch.rand(32, 3, generator=generator)
    labels = (torch.rand(32, generator=generator) < 0.4).float()
    found = []
    for _ in range(12):
        logits = model(dense, batch)
        assert logits.dtype == torch.float32
        loss = binary_cross_entropy_with_logits(logits, labels)
        optimizers.zero_grad()
        loss.backward()
        optimizers.step()
        found.append(loss.item())
    return found, model


def same_width(case: Case) -> bool:
    return len({c.embedding_dim for c in build(case.plan).embedding_bag_configs()}) == 1


@pytest.mark.usefixtures("any_machine")
@pytest.mark.parametrize("case", [c for c in CASES if same_width(c)][:3], ids=str)
def test_the_loss_stays_near_and_the_weights_float32(case: Case) -> None:
    exact, _ = losses(case, "float32")
    near, model = losses(case, "bfloat16")
    assert near != exact
    assert near[-1] < near[0]
    torch.testing.assert_close(torch.tensor(near), torch.tensor(exact), rtol=0.02, atol=0.005)
    assert {t.dtype for t in model.state_dict().values() if t.is_floating_point()} == {
        torch.float32
    }


@each_case
@pytest.mark.parametrize("engine", ["eager", "fused"])
def test_a_collection_leaves_autocast(case: Case, engine: str) -> None:
    collection = CompressedEmbeddingBagCollection(case.plan, engine=engine)  # type: ignore[arg-type]  # a name
    batch = make_batch(case.plan, "multi", size=6).kjt()
    expected = collection(batch).values()
    with torch.autocast("cpu", torch.bfloat16):
        found = collection(batch).values()
        assert torch.is_autocast_enabled("cpu")
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


class Broken(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        raise RuntimeError("broken")


@pytest.mark.usefixtures("any_machine")
def test_autocast_ends_with_the_forward() -> None:
    model = compute_in("bfloat16", Broken(), "cpu")
    with pytest.raises(RuntimeError, match="broken"):
        model(torch.ones(2))
    assert not torch.is_autocast_enabled("cpu")


def test_a_machine_without_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: False)
    with pytest.raises(
        ValueError, match=r"this machine's cpu has no bfloat16 products .*'float32'"
    ):
        compute_in("bfloat16", nn.Linear(2, 2), "cpu")
    plain = nn.Linear(2, 2)
    assert compute_in("float32", plain, "cpu") is plain
    assert isinstance(has_bfloat16("cpu"), bool)
