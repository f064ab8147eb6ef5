"""The dense part of a model in bfloat16: its matrix products, and nothing of the embeddings."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

__all__ = ["DenseDtype", "compute_in", "has_bfloat16"]

DenseDtype = Literal["float32", "bfloat16"]


def has_bfloat16(device: str) -> bool:
    """True where the machine multiplies bfloat16 in hardware: elsewhere it is far slower."""
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def compute_in(dtype: DenseDtype, model: nn.Module, device: str) -> nn.Module:
    """The model, whose forward runs under torch's autocast from now on; for ``float32`` as it was.

    Weights, optimizer and logits stay float32. A compressed collection inside leaves autocast by
    itself, so tables, lookups and small dense parts of methods are float32 throughout.

    Raises:
        ValueError: the machine has no bfloat16.
    """
    if dtype == "float32":
        return model
    if not has_bfloat16(device):
        raise ValueError(
            f"dense_dtype (--dense-dtype) is 'bfloat16', but this machine's {device} has no "
            f"bfloat16 products (AVX512-BF16 or AMX on a CPU); use 'float32'"
        )
    running: list[torch.autocast] = []

    def enter(module: nn.Module, inputs: Any) -> None:
        running.append(torch.autocast(torch.device(device).type, torch.bfloat16))
        running[-1].__enter__()

    def leave(module: nn.Module, inputs: Any, logits: Tensor | None) -> Tensor | None:
        running.pop().__exit__(None, None, None)
        return None if logits is None else logits.float()

    model.register_forward_pre_hook(enter)
    model.register_forward_hook(leave, always_call=True)
    return model
