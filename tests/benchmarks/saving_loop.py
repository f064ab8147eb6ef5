"""A loop of one's own that saves asynchronously all the time; what `moment_runner.py` kills.

Nothing in it waits for a save but the next one, so that most moments are in the middle of one.
"""

import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from compactrec.benchmarks.processes import joined
from compactrec.embeddings import (
    CheckpointFolder,
    CompressedEmbeddingBagCollection,
    Feature,
    FusedOptimizer,
    dense_parameters,
    full_plan,
    load_checkpoint,
    save_checkpoint,
)
from compactrec.embeddings.sharding import gather_state, shard
from compactrec.embeddings.sharding_config import Sharding

__all__ = ["WEIGHTS", "train"]

WEIGHTS = "weights.safetensors"
STEPS, BATCH = 24, 32
SIZES = {"a": 40_000, "b": 5_000, "c": 7}
PLAN = full_plan([Feature(name=name, num_ids=n, dim=16) for name, n in SIZES.items()])
OPTIMIZER = FusedOptimizer(name="adagrad", learning_rate=0.1, eps=1e-4)
SHARDING = Sharding.model_validate(
    {"tables": {"t_a__.*": "row_wise", "t_b__.*": "column_wise", "t_c__.*": "table_wise"}}
)


class Clicks(nn.Module):
    """A collection and a linear layer over it."""

    def __init__(self, engine: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        optimizer = OPTIMIZER if engine == "fused" else None
        self.embeddings = CompressedEmbeddingBagCollection(PLAN, engine=engine, optimizer=optimizer)
        self.over = nn.Linear(16 * len(SIZES), 1)

    def forward(self, ids: KeyedJaggedTensor) -> Tensor:
        logits: Tensor = self.over(self.embeddings(ids).values())
        return logits


def train(out: Path) -> None:
    """Go on from the checkpoint in ``out``, save after every step, write the weights at the end."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    engine = "sharded" if size > 1 else "fused"
    with joined(engine, "cpu") as processes:
        model: nn.Module = Clicks(engine)
        if size > 1:
            model = shard(model, SHARDING, optimizer=OPTIMIZER)
        optimizers = [torch.optim.Adam(dense_parameters(model), lr=0.01)]
        with CheckpointFolder(out / "checkpoint", {"plan": PLAN.to_json()}) as folder:
            found = load_checkpoint(folder, model, optimizers)
            for step in range(found.step if found else 0, STEPS):
                optimizers[0].zero_grad()
                ids = _ids(STEPS * processes.rank + step)
                (model(ids) - torch.rand(BATCH, 1)).square().mean().backward()
                optimizers[0].step()
                save_checkpoint(folder, model, optimizers, step=step + 1, asynchronous=True)
            folder.wait()
            weights = gather_state(model) if size > 1 else model.state_dict()
            if processes.is_first:
                save_file(weights, out / WEIGHTS)


def _ids(seed: int) -> KeyedJaggedTensor:
    generator = torch.Generator().manual_seed(seed)
    ids = [torch.randint(0, n, (BATCH,), generator=generator) for n in SIZES.values()]
    return KeyedJaggedTensor(
        keys=list(SIZES), values=torch.cat(ids), lengths=torch.ones(BATCH * len(SIZES)).int()
    )
