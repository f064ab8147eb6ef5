"""What an engine can do and what it cannot: the checks of a training config."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from compactrec.benchmarks.config import TrainConfig

__all__ = ["check_engine"]


def check_engine(config: TrainConfig) -> None:
    """Raise ``ValueError`` where the engine of ``config`` cannot do what its other fields ask."""
    if config.engine == "eager" and config.table_optimizer == "rowwise_adagrad":
        raise ValueError(
            "engine 'eager' has no 'rowwise_adagrad'; use engine 'fused', or the table "
            "optimizer 'adagrad' or 'sgd'"
        )
    if config.engine != "eager":
        _check_eager_alone(config)
        _check_whole_gradients(config)
    if config.table_optimizer == "lamb" and config.decay_mode != "touched_rows":
        raise ValueError(
            f"under decay_mode (--decay-mode) {config.decay_mode!r} 'lamb' would move a row "
            f"that no batch holds by the whole length of a step, in the direction of its last "
            f"gradient, again and again; use decay_mode 'touched_rows', or the table "
            f"optimizer 'adam' or 'amsgrad'"
        )
    if config.engine == "fused" and config.table_optimizer == "adam":
        _check_fused_adam(config)
    if config.engine == "sharded":
        _check_sharded(config)
        return
    for name in ("sharding", "pipeline", "rewrite_in_loader"):
        if getattr(config, name) != type(config).model_fields[name].default:
            raise ValueError(
                f"{name} is for engine 'sharded', got engine {config.engine!r}; leave {name} "
                f"out, or change the engine"
            )


def _check_eager_alone(config: TrainConfig) -> None:
    if config.table_optimizer in ("amsgrad", "lamb"):
        raise ValueError(
            f"engine {config.engine!r} has no {config.table_optimizer!r}: no kernel updates "
            f"tables so inside the backward pass; use engine 'eager', or the table optimizer "
            f"'adagrad', 'rowwise_adagrad' or 'sgd'"
        )


def _check_whole_gradients(config: TrainConfig) -> None:
    """Engines that update tables within backward never have the gradient of a whole step."""
    inside = f"engine {config.engine!r} updates tables inside each backward pass"
    if config.max_grad_norm is not None:
        raise ValueError(
            f"max_grad_norm needs the gradients of all weights before any is updated, and "
            f"{inside}; use engine 'eager', or leave max_grad_norm out"
        )
    if config.accumulate_steps > 1:
        size = config.accumulate_steps * config.batch_size
        raise ValueError(
            f"accumulate_steps {config.accumulate_steps} needs one update after several backward "
            f"passes, and {inside}; use engine 'eager', or a batch_size (--batch-size) of {size}"
        )


def _check_fused_adam(config: TrainConfig) -> None:
    if config.kernel == "fbgemm" or not config.device.startswith("cpu"):
        raise ValueError(
            f"engine 'fused' has 'adam' with kernel 'numba' on device 'cpu' alone, got kernel "
            f"{config.kernel!r} and device {config.device!r}; use these, engine 'eager', or the "
            f"table optimizer 'adagrad', 'rowwise_adagrad' or 'sgd'"
        )
    if config.decay_mode != "touched_rows":
        raise ValueError(
            f"under decay_mode (--decay-mode) {config.decay_mode!r} 'adam' moves every row "
            f"in every step, which engine 'fused' does not; use decay_mode 'touched_rows', or "
            f"engine 'eager'"
        )


def _check_sharded(config: TrainConfig) -> None:
    if config.table_optimizer == "adam":
        raise ValueError(
            "engine 'sharded' has no 'adam', as FBGEMM's CPU operator has none; use engine "
            "'fused' or 'eager', or the table optimizer 'adagrad', 'rowwise_adagrad' or 'sgd'"
        )
    if config.table_decay:
        raise ValueError(
            f"engine 'sharded' has no weight decay of tables, got {config.table_decay:g}; "
            f"set table_decay (--table-decay) to 0, or use engine 'fused' on one process"
        )
    if config.pipeline and config.rewrite_in_loader:
        raise ValueError(
            "pipeline and rewrite_in_loader are both set, but the pipeline rewrites ids "
            "ahead by itself; leave one of them out"
        )
