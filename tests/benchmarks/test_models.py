"""Training any model: what a plan is made for, what its bytes are, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compactrec.benchmarks.choices import full_serving_bytes, train_config_for
from compactrec.benchmarks.config import TrainConfig
from compactrec.benchmarks.plans import counts_of, resolve_plan
from compactrec.benchmarks.train import train
from compactrec.data.manifest import Manifest
from compactrec.embeddings import Plan, full_plan, make_plan, method_names, size
from compactrec.models import model_names
from tests.benchmarks.folder import SIZES, write_folder
from tests.models.support import SMALL

pytestmark = pytest.mark.skipif(
    "hash" not in method_names(), reason="first-order weights, of width 1, have fewer rows or none"
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("models") / "data")


def config(data: Path, out: Path, model: str, **changes: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "data": data, "out": out, "method": "full", "model": model, "dim": 4, "threshold": 0,
        "batch_size": 64, "eval_batch_size": 256, "num_threads": 1, "quiet": True,
        "dense_learning_rate": 0.01, "table_learning_rate": 0.2, "epochs": 3, "keep_model": False,
    }  # fmt: skip
    return TrainConfig.model_validate({**values, **changes})


@pytest.mark.parametrize("model", model_names())
def test_a_name_is_enough_to_train(data: Path, tmp_path: Path, model: str) -> None:
    """Small layers make it quick; all else is the model's own."""
    full = config(data, tmp_path, model, model_options=SMALL.get(model, {}))
    base = train_config_for(full, None, "hash", "1/2")
    result = train(base)
    assert result.validation.auc > 0.6
    assert result.bytes.serving_bytes <= (result.bytes.full_serving_bytes or 0) / 2
    reads = [feature.name for feature in Plan.load(tmp_path / "plan.json").features]
    assert set(SIZES) <= set(reads)


def test_first_order_weights_are_in_the_plan_and_in_full_tables(data: Path, tmp_path: Path) -> None:
    manifest = Manifest.load(data)
    wide, narrow = (config(data, tmp_path, name) for name in ("deepfm", "fnn"))
    features = wide.features(manifest)
    assert [f.name for f in features] == [*SIZES, *(f"{key}_linear" for key in SIZES)]
    assert [f.dim for f in features] == [4] * 3 + [1] * 3
    both = [size(full_plan(c.features(manifest))).table_bytes for c in (wide, narrow)]
    assert both[0] - both[1] == 4 * sum(-(-num // 4) * 4 for num in SIZES.values())  # by four
    budget = (full_serving_bytes(wide, manifest) or 0) // 2
    assert budget > both[0] // 2
    plan = resolve_plan(train_config_for(wide, None, "hash", "1/2"), manifest)
    assert size(plan).serving_bytes <= budget
    assert {f.name for f in plan.features} == {f.name for f in features}


def test_counts_are_those_of_the_ids_that_are_read(data: Path, tmp_path: Path) -> None:
    manifest = Manifest.load(data)
    counts = manifest.counts(data)
    found = counts_of(config(data, tmp_path, "fm").features(manifest), counts)
    for key in SIZES:
        assert np.array_equal(found[f"{key}_linear"], counts[key])
        assert np.array_equal(found[key], counts[key])


def test_a_plan_for_another_model_is_refused(data: Path, tmp_path: Path) -> None:
    manifest = Manifest.load(data)
    for made_for, used_by, message in (
        ("fnn", "deepfm", "no feature 'C1_linear', which the data has and model 'deepfm' reads"),
        (
            "deepfm",
            "fnn",
            "that model 'fnn' does not read: C1_linear, C2_linear, .*a plan for this model",
        ),
    ):
        reads = config(data, tmp_path, made_for).features(manifest)
        counts = counts_of(reads, manifest.counts(data))
        full = size(make_plan("full", reads, 10**9)).serving_bytes
        path = tmp_path / f"{made_for}.json"
        make_plan("hash", reads, full // 2, counts=counts, threshold=0).save(path)
        with pytest.raises(ValueError, match=message):
            resolve_plan(config(data, tmp_path, used_by, plan=path, method=None), manifest)
