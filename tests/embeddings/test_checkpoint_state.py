"""Checkpoints of whole models: what another optimizer or another model is told."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad

from compactrec.embeddings import (
    CompressedEmbeddingBagCollection,
    Feature,
    FusedOptimizer,
    full_plan,
)
from compactrec.embeddings.checkpoint_state import (
    load_checkpoint,
    model_tensors,
    save_checkpoint,
)
from compactrec.embeddings.checkpointing import CheckpointError, CheckpointFolder
from tests.contract.support import make_batch
from tests.embeddings import exact_resume
from tests.run_code import run_ranks

FEATURES = [
    Feature(name="a", num_ids=50, dim=4),
    Feature(name="b", num_ids=9, dim=8, pooling="mean"),
    Feature(name="c", num_ids=70, dim=12),
]
PLAN = full_plan(FEATURES)
KJT = make_batch(PLAN, "multi").kjt()

Made = tuple[nn.Module, list[Any]]


def fused(name: Any) -> Made:
    optimizer = FusedOptimizer(name=name, learning_rate=0.1)
    bags = CompressedEmbeddingBagCollection(PLAN, engine="fused", optimizer=optimizer)
    return nn.ModuleDict({"bags": bags}), []


def eager(kind: Callable[..., Any], **options: Any) -> Made:
    model = nn.ModuleDict({"bags": CompressedEmbeddingBagCollection(PLAN)})
    return model, [kind(model.parameters(), lr=0.1, **options)]


def step(made: Made) -> None:
    model, optimizers = made
    for optimizer in optimizers:
        optimizer.zero_grad()
    model.get_submodule("bags")(KJT).values().square().sum().backward()
    for optimizer in optimizers:
        optimizer.step()


MAKERS: dict[str, Callable[[], Made]] = {
    "fused sgd": lambda: fused("sgd"),
    "fused adagrad": lambda: fused("adagrad"),
    "fused rowwise_adagrad": lambda: fused("rowwise_adagrad"),
    "SGD": lambda: eager(torch.optim.SGD),
    "SGD with momentum": lambda: eager(torch.optim.SGD, momentum=0.9),
    "Adagrad": lambda: eager(torch.optim.Adagrad),
    "RowWiseAdagrad": lambda: eager(RowWiseAdagrad),
    "Adam": lambda: eager(torch.optim.Adam),
}
NAMES = {
    "fused sgd": "sgd",
    "fused adagrad": "adagrad",
    "fused rowwise_adagrad": "rowwise_adagrad",
    "SGD": "sgd",
    "SGD with momentum": "sgd with momentum",
    "Adagrad": "adagrad",
    "RowWiseAdagrad": "rowwise_adagrad",
}


@pytest.mark.parametrize("there", MAKERS)
@pytest.mark.parametrize("here", MAKERS)
def test_the_optimizer_of_the_tables_is_compared(tmp_path: Path, there: str, here: str) -> None:
    one, two = MAKERS[there](), MAKERS[here]()
    step(one)
    kinds = NAMES.get(there, there), NAMES.get(here, here)
    with CheckpointFolder(tmp_path, {}) as folder:
        save_checkpoint(folder, *one, step=1)
        if kinds[0] != kinds[1]:
            with pytest.raises(
                CheckpointError,
                match="the checkpoint is of another optimizer: .*weight is updated by "
                f"{kinds[0]} there and {kinds[1]} here",
            ):
                load_checkpoint(folder, *two)
            return
        load_checkpoint(folder, *two)
    step(one)
    step(two)
    for name, weight in two[0].named_parameters():
        torch.testing.assert_close(weight, one[0].get_parameter(name), rtol=1e-4, atol=1e-5)


def test_weights_that_were_saved_without_an_optimizer_say_so(tmp_path: Path) -> None:
    one, two = eager(torch.optim.SGD), eager(torch.optim.Adam)
    with CheckpointFolder(tmp_path, {}) as folder:
        save_checkpoint(folder, one[0], step=1)
        with pytest.raises(
            CheckpointError, match=r"weight is updated by no optimizer there and Adam here"
        ):
            load_checkpoint(folder, *two)


def test_adam_inside_backward_is_another_optimizer_than_torchs(tmp_path: Path) -> None:
    pytest.importorskip("numba", reason="the fused adam is one of kernel numba")
    one, two = fused("adam"), eager(torch.optim.Adam)
    step(one)
    with CheckpointFolder(tmp_path, {}) as folder:
        save_checkpoint(folder, *one, step=1)
        with pytest.raises(CheckpointError, match="updated by fused adam there and Adam here"):
            load_checkpoint(folder, *two)
        three = fused("adam")
        load_checkpoint(folder, *three)
    step(one)
    step(three)
    for name, weight in three[0].named_parameters():
        assert torch.equal(weight, one[0].get_parameter(name))


@pytest.mark.parametrize("weights_only", [True, False])
def test_a_larger_model_is_not_loaded_into_a_smaller_one(
    tmp_path: Path, weights_only: bool
) -> None:
    large, optimizers = fused("sgd")
    large.add_module("top", nn.Linear(24, 3))
    small = fused("sgd")[0]
    with CheckpointFolder(tmp_path, {}) as folder:
        save_checkpoint(folder, large, optimizers, step=1)
        with pytest.raises(
            CheckpointError,
            match=r"is of another model: it holds top\.weight, top\.bias, which this model has not",
        ):
            load_checkpoint(folder, small, None if weights_only else [])
        small.add_module("top", nn.Linear(24, 3))
        assert load_checkpoint(folder, small, None if weights_only else []) is not None


def test_row_wise_state_of_another_column_cut_is_refused_and_its_weights_load(
    tmp_path: Path,
) -> None:
    """Two shards of columns keep two accumulators for every row: ``2 * rows`` of them."""
    one, two = fused("rowwise_adagrad"), fused("rowwise_adagrad")
    step(one)
    name = "bags.tables.embedding_bags.t_c__id.weight"
    with CheckpointFolder(tmp_path, {}) as folder:
        save_checkpoint(folder, *one, step=1)
        found = folder.load()
        assert found is not None
        tensors = folder.read(found.tensors)
        tensors[f"optimizer.{name}.momentum1"] = torch.ones(140)
        folder.save(2, tensors, {}, rank_state=found.ranks[0])
        with pytest.raises(
            CheckpointError,
            match=rf"{name}\.momentum1 has 140 entries there and 70 here: .*cut them into as many",
        ):
            load_checkpoint(folder, *two)
        assert not torch.equal(two[0].get_parameter(name), one[0].get_parameter(name))
        assert load_checkpoint(folder, two[0]) is not None
    for key, weight in two[0].named_parameters():
        assert torch.equal(weight, one[0].get_parameter(key)), key


def test_a_tied_weight_is_named_once_and_the_first_rows_of_one_by_themselves() -> None:
    a, b, rows = (nn.Linear(4, n, bias=False) for n in (6, 6, 2))
    b.weight, rows.weight = a.weight, nn.Parameter(a.weight.data[:2])  # which begins where a begins
    found = model_tensors(nn.ModuleDict({"a": a, "b": b, "rows": rows}))
    assert {name: tuple(t.shape) for name, t in found.items()} == {
        "a.weight": (6, 4), "rows.weight": (2, 4)
    }  # fmt: skip


def test_what_is_no_list_of_optimizers_is_refused(tmp_path: Path) -> None:
    model, (optimizer,) = eager(torch.optim.SGD)
    cases = {
        "got SGD; write optimizers=[optimizer]": optimizer,
        "got dict; write optimizers=[optimizer], or leave it out": {"a": optimizer},
        "optimizers[1] is of type Linear, which has no param_groups; give optimizers of": [
            optimizer,
            nn.Linear(2, 1),
        ],
    }
    with CheckpointFolder(tmp_path, {}) as folder:
        save_checkpoint(folder, model, [optimizer], step=1)
        for message, given in cases.items():
            with pytest.raises(TypeError, match=re.escape(message)):
                save_checkpoint(folder, model, given, step=2)  # type: ignore[arg-type] # the error is what is tested
            with pytest.raises(TypeError, match=re.escape(message)):
                load_checkpoint(folder, model, given)  # type: ignore[arg-type] # the error is what is tested
        assert folder.last_step == 1


@pytest.mark.parametrize("model", [None, {"a": nn.Linear(2, 1)}])
def test_what_is_no_model_is_refused(tmp_path: Path, model: Any) -> None:
    message = rf"takes a model, a torch\.nn\.Module, got {type(model).__name__}; give it module"
    with CheckpointFolder(tmp_path, {}) as folder:
        with pytest.raises(TypeError, match=f"^save_checkpoint {message}"):
            save_checkpoint(folder, model, step=1)
        with pytest.raises(TypeError, match=f"^load_checkpoint {message}"):
            load_checkpoint(folder, model)


def test_a_path_is_no_folder_of_checkpoints(tmp_path: Path) -> None:
    model, _ = fused("sgd")
    message = "folder must be a CheckpointFolder, got 'runs'; make one, CheckpointFolder[(]path, id"
    with pytest.raises(TypeError, match=message):
        load_checkpoint("runs", model)  # type: ignore[arg-type] # the error is what is tested
    with pytest.raises(TypeError, match=message):
        save_checkpoint("runs", model, step=1)  # type: ignore[arg-type] # the error is what is tested


def test_state_that_no_optimizer_takes_is_named(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 4))
    adam = torch.optim.Adam(model.parameters())
    model(torch.ones(5, 3)).sum().backward()
    adam.step()
    with CheckpointFolder(tmp_path / "c", {}) as folder:
        save_checkpoint(folder, model, [adam], step=1)
        half = torch.optim.Adam(model[1].parameters())
        for given, names in (([], "0.weight, 0.bias, 1.weight"), ([half], "0.weight, 0.bias, whi")):
            with pytest.warns(UserWarning, match=f"holds optimizer state of {names}.*left out; gi"):
                load_checkpoint(folder, model, given)
        assert load_checkpoint(folder, model, [adam]) is not None
        assert load_checkpoint(folder, model) is not None  # asked for the weights alone


TWO = """
import json
from pathlib import Path
import torch.distributed as dist
from tests.embeddings.exact_resume import WAYS, load, save
dist.init_process_group("gloo")
rank = dist.get_rank()
for way in WAYS:
    drawn = save(Path(f"two-{way}"), way, seed=10)
    assert load(Path(f"two-{way}"), way, saved_by=rank) == drawn, f"{way}, two processes"
    Path(f"{way}-{rank}.json").write_text(json.dumps(drawn))
    assert load(Path(f"one-{way}"), way, saved_by=0) == EXPECTED[way], f"{way}, of one process"
"""


@pytest.mark.dist
def test_every_process_goes_on_with_its_random_states_and_the_numbers_of_groups(
    tmp_path: Path,
) -> None:
    """With those of rank ``r mod k`` where other ``k`` processes saved."""
    alone = {way: exact_resume.save(tmp_path / f"one-{way}", way) for way in exact_resume.WAYS}
    ended = run_ranks(f"EXPECTED = {alone}{TWO}", tmp_path, 120)
    assert [(status, errors) for status, _, errors in ended] == [(0, ""), (0, "")]
    for way, drawn in alone.items():
        first, second = (json.loads((tmp_path / f"{way}-{r}.json").read_text()) for r in (0, 1))
        assert not {*first, *second} & {*drawn}
        assert not {*first} & {*second}
        assert exact_resume.load(tmp_path / f"one-{way}", way, saved_by=0) == drawn
        assert exact_resume.load(tmp_path / f"two-{way}", way, saved_by=0) == first
