"""What is checked before a run begins: that its device is there and its folder can take it."""

from __future__ import annotations

import torch

from compactrec.benchmarks.config import TrainConfig
from compactrec.places import check_out_folder

__all__ = ["check_device", "check_ready"]


def check_ready(config: TrainConfig) -> None:
    """Raise ``ValueError`` where nothing of ``config`` could be run on this machine."""
    check_out_folder(config.out)
    check_device(config.device)


def check_device(device: str) -> None:
    """Raise ``ValueError`` where torch cannot compute on ``device`` here."""
    wrong = _wrong_with(device)
    if wrong:
        there = ", ".join(repr(name) for name in ("cpu", *_gpus()))
        raise ValueError(
            f"device (--device) is {device!r}, and {wrong}; there is {there}: give one of these, "
            f"or leave it out for 'cpu'"
        )


def _wrong_with(device: str) -> str:
    """Why ``device`` cannot be used, in words; empty where it can."""
    try:
        found = torch.device(device)
    except RuntimeError:
        return "torch knows no such device"
    if found.type == "cpu":
        return ""
    if found.type != "cuda":
        return f"this program computes on 'cpu' and 'cuda' alone, not on {found.type!r}"
    if not torch.backends.cuda.is_built():
        return (
            f'torch {torch.__version__} is built without CUDA (for one with it: "pip install '
            f"'.[gpu]'\" in the checkout)"
        )
    if not _gpus():
        return "torch finds no GPU on this machine"
    return "" if (found.index or 0) < len(_gpus()) else "there are not so many GPUs"


def _gpus() -> list[str]:
    return [f"cuda:{i}" for i in range(torch.cuda.device_count())]
