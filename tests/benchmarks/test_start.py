"""Training from a start: what fits, what is refused, and that a run knows its start."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from compactrec.benchmarks.config import TrainConfig
from compactrec.benchmarks.start import load_start
from compactrec.benchmarks.train import train


def small(data: Path, out: Path, **changes: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "data": data, "out": out, "method": "full", "dim": 8, "bottom": (16,), "top": (16, 1),
        "batch_size": 64, "eval_batch_size": 256, "num_threads": 1, "quiet": True,
        "dense_learning_rate": 0.005, "table_learning_rate": 0.1,
    }  # fmt: skip
    return TrainConfig.model_validate({**values, **changes})


@pytest.fixture(scope="module")
def start(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of a trained run."""
    out = tmp_path_factory.mktemp("start")
    train(small(data, out))
    return out / "model.safetensors"


def test_no_epochs_score_the_start_as_it_is(data: Path, tmp_path: Path, start: Path) -> None:
    trained = train(small(data, start.parent))
    again = train(small(data, tmp_path / "run", start=start, epochs=0))
    assert again.validation == trained.validation
    assert again.test == trained.test
    assert (again.num_steps, again.best_step, again.samples_per_second) == (0, 0, 0.0)
    assert again.start_sha256 is not None
    assert trained.start_sha256 is None


def test_training_goes_on_from_the_start(data: Path, tmp_path: Path, start: Path) -> None:
    fresh = train(small(data, tmp_path / "fresh"))
    on = train(small(data, tmp_path / "on", start=start))
    assert on.history[0].train_loss < fresh.history[0].train_loss  # type: ignore[operator]


def test_a_run_knows_its_start_by_content(data: Path, tmp_path: Path, start: Path) -> None:
    config = small(data, tmp_path / "run", start=start, epochs=0)
    done = train(config)
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes(start.read_bytes())
    assert train(small(data, tmp_path / "run", start=moved, epochs=0)) == done
    tensors = load_file(str(start))
    name = next(name for name in tensors if tensors[name].is_floating_point())
    tensors[name] = tensors[name] + 1
    save_file(tensors, str(moved))
    with pytest.raises(ValueError, match=r"holds the result of another run: start is"):
        train(small(data, tmp_path / "run", start=moved, epochs=0))


def test_a_start_that_does_not_fit_is_refused_by_name(
    data: Path, tmp_path: Path, start: Path
) -> None:
    tensors = load_file(str(start))
    name = next(name for name in tensors if tensors[name].is_floating_point())
    other = tmp_path / "other.safetensors"
    save_file({**tensors, name: torch.zeros(2, 2)}, str(other))
    with pytest.raises(ValueError, match=rf"{name} is \(2, 2\) float32 there"):
        train(small(data, tmp_path / "a", start=other))
    save_file({k: t for k, t in tensors.items() if k != name}, str(other))
    with pytest.raises(ValueError, match=rf"{name} is missing"):
        train(small(data, tmp_path / "b", start=other))
    save_file({**tensors, "strange": torch.zeros(1)}, str(other))
    with pytest.raises(ValueError, match="strange is not of this model"):
        train(small(data, tmp_path / "c", start=other))
    other.write_bytes(start.read_bytes()[:100])
    with pytest.raises(ValueError, match="is not a whole safetensors file"):
        train(small(data, tmp_path / "d", start=other))
    with pytest.raises(ValueError, match=r"nowhere.safetensors is not a file"):
        train(small(data, tmp_path / "e", start=tmp_path / "nowhere.safetensors"))


def test_a_start_of_another_model_names_five_keys_and_counts_the_rest(tmp_path: Path) -> None:
    file = tmp_path / "other.safetensors"
    save_file({f"theirs.{i}": torch.zeros(1) for i in range(4)}, str(file))
    model = torch.nn.ModuleDict({f"ours{i}": torch.nn.Linear(2, 1) for i in range(3)})
    named = ("ours0.bias", "ours0.weight", "ours1.bias", "ours1.weight", "ours2.bias")
    with pytest.raises(ValueError, match="does not fit the model") as caught:
        load_start(model, file)
    assert str(caught.value) == (
        f"start {file} does not fit the model: "
        + "".join(f"{key} is missing; " for key in named)
        + "and 5 more. Give the plan and the model settings that it was saved with"
    )


def test_no_epochs_without_a_start_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="epochs is 0 and there is no start"):
        small(data, tmp_path, epochs=0)
