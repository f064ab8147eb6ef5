"""What published protocols say, written down a second time and apart from their files.

A slip in a file is then a difference between two texts. What has no second source, and stands in
the files alone, is named in `UNTOLD`; beside that: rows and ids of `bars-criteo-x1`, ids of
`avazu-x4`, rows of `avazu-x4`, `unified-avazu` and `optembed-*` beyond their sum, and the training
of `torchrec-kaggle`, which is `dlrm-kaggle`'s.
"""

from __future__ import annotations

from typing import Any

__all__ = ["FIGURES", "KAGGLE_ROWS", "OF_LOGS", "SEARCHES", "SETTINGS", "UNTOLD", "Figure"]

KAGGLE_ROWS = 45_840_617
Figure = tuple[str, str, str | None, str, float | None, float | None, float | None]
"""Model, method, budget, split, AUC, log loss, accuracy."""


def _board(text: str) -> list[Figure]:
    """`model auc logloss; ...` of full tables on test rows."""
    rows = (line.split() for line in text.split(";"))
    return [(m, "full", None, "test", float(auc), float(loss), None) for m, auc, loss in rows]


def _multiplexed(whole: float, *rows: tuple[int, float, float]) -> list[Figure]:
    """Collisionless AUC, then bytes with the AUC of tables apart and of one table for all."""
    found: list[Figure] = [("dcnv2", "full", None, "test", whole, None, None)]
    for size, apart, together in rows:
        for method, value in (("hash", apart), ("unified", together)):
            found.append(("dcnv2", method, f"{size}B", "test", value, None, None))
    return found


_CRITEO, _AVAZU, _ML1M = (
    tuple(4 * width * rows for rows in sizes)
    for width, sizes in (
        (39, (160_605, 80_302, 16_060)), (32, (252_838, 25_284, 2_528)),
        (30, (13_177, 6_588, 1_318)),
    )
)  # fmt: skip
"""Bytes of so many float32 rows."""

FIGURES: dict[str, list[Figure]] = {
    "bars-criteo-x4-001": _board(
        "lr .7934 .4568; fm .8086 .4431; fnn .8140 .4380; wide_deep .8142 .4377; ipnn .8142 .4378;"
        "deepfm .8143 .4376; dcn .8144 .4376; xdeepfm .8143 .4376; autoint .8119 .4399;"
        "autoint_plus .8132 .4390; fibinet .8131 .4387; dcnv2 .814514 .437631;"
        "masknet .81342 .438748; finalmlp .814584 .437353"
    ),
    "bars-criteo-x4-002": _board(
        "lr .7936 .4566; fm .8078 .4445; fnn .8112 .4407; wide_deep .8129 .4389; ipnn .8132 .4388;"
        "deepfm .8141 .4378; dcn .8141 .4378; xdeepfm .8144 .4375; autoint .8129 .4390;"
        "autoint_plus .8134 .4385; fibinet .8134 .4386"
    ),
    "bars-criteo-x1": _board(
        "lr .7886 .4609; fm .8022 .4491; fnn .8137 .4382; wide_deep .8139 .4380; ipnn .8137 .4383;"
        "deepfm .8137 .4381; dcn .8138 .4381; xdeepfm .8139 .4380; autoint .8126 .4392;"
        "autoint_plus .8139 .4379; fibinet .8130 .4388; dcnv2 .8142 .4378; masknet .8139 .4380;"
        "finalmlp .8149 .4370; dlrm .8138 .4382"
    ),
    "avazu-x4": _board(
        "lr .7775 .3815; fm .7887 .3754; fnn .7928 .3722; wide_deep .7929 .3720; ipnn .7944 .3712;"
        "deepfm .7930 .3719; dcn .7931 .3719; xdeepfm .7933 .3718; autoint .7891 .3745;"
        "fibinet .7953 .3705; dcnv2 .793146 .371865; masknet .794382 .371189;"
        "finalmlp .793537 .371862"
    ),
    "unified-criteo": [
        *_multiplexed(
            0.8070, (_CRITEO[0], 0.8021, 0.8043), (_CRITEO[1], 0.7998, 0.8047),
            (_CRITEO[2], 0.7944, 0.8049),
        ),
        *_multiplexed(
            0.8095, (_CRITEO[0], 0.8067, 0.8092), (_CRITEO[1], 0.8058, 0.8090),
            (_CRITEO[2], 0.7989, 0.8082),
        ),
    ],
    "unified-avazu": [
        *_multiplexed(
            0.7735, (_AVAZU[0], 0.7724, 0.7735), (_AVAZU[1], 0.7671, 0.7718),
            (_AVAZU[2], 0.7510, 0.7686),
        ),
        *_multiplexed(
            0.7765, (_AVAZU[0], 0.7748, 0.7761), (_AVAZU[1], 0.7679, 0.7737),
            (_AVAZU[2], 0.7525, 0.7702),
        ),
    ],
    "unified-ml1m": [
        *_multiplexed(
            0.8872, (_ML1M[0], 0.8537, 0.8774), (_ML1M[1], 0.8300, 0.8693),
            (_ML1M[2], 0.7707, 0.8200),
        ),
        *_multiplexed(
            0.8985, (_ML1M[0], 0.8684, 0.8872), (_ML1M[1], 0.8407, 0.8759),
            (_ML1M[2], 0.7712, 0.8263),
        ),
    ],
    "mlperf-dlrm-dcnv2": [("dlrm_dcnv2", "full", None, "validation", 0.80275, None, None)],
    "dlrm-kaggle": [
        ("dlrm", "full", None, "test", None, 0.452, 0.79),
        ("dlrm", "full", None, "test", None, None, 0.789),
        ("dlrm", "full", None, "test", None, None, 0.781),
    ],
    "autoint-criteo": _board("autoint .80883 .44298"),
    "torchrec-kaggle": [],
    "optembed-criteo": [],
    "optembed-avazu": [],
    "optembed-kdd12": [],
}  # fmt: skip
"""Every figure of every protocol: none is there that is not here."""

_ADAM = {
    "dense_optimizer": "adam", "table_optimizer": "adam", "dense_learning_rate": 0.001,
    "table_learning_rate": 0.001, "decay_mode": "dense_coupled",
}  # fmt: skip
_BARS = {
    **_ADAM, "dense_weight_decay": 0.0, "max_grad_norm": 10, "schedule.plateau_factor": 0.1,
    "schedule.plateau_min_delta": 1e-6, "evals_per_epoch": 1, "seeds": 3, "init_std": 1e-4,
}  # fmt: skip
_X4 = {
    **_BARS, "batch_size": 10_000, "patience": 2, "table_decay": 1e-5,
    "rows": {"train": 36_672_493, "validation": 4_584_062, "test": 4_584_062},
}  # fmt: skip
_UNIFIED = {
    "dense_optimizer": "adam", "table_optimizer": "adam", "table_decay": 0.0,
    "structure": "stacked", "kind": "full", "batch_norm": False, "dropout": 0.0,
    "methods": ("hash", "unified"), "seeds": 5, "threshold": 0, "init_std": "method",
}  # fmt: skip
_TENS = [1000] * 5
_DEEP = {"hidden": _TENS, "dropout": 0.2}
_OPTEMBED = {
    "dim": 64, "threshold": 0, "batch_size": 2048, "epochs": 30, "patience": 1,
    "evals_per_epoch": 1,
    "dense_optimizer": "adam", "table_optimizer": "adam", "decay_mode": "dense_coupled",
    "init_std": "method", "hidden": [1024, 512, 256], "batch_norm": True, "dropout": 0.0,
}  # fmt: skip
_DLRM = {
    "dim": 16, "bottom": [512, 256, 64], "top": [512, 256, 1], "batch_size": 128, "epochs": 1,
    "dense_optimizer": "sgd", "table_optimizer": "sgd", "dense_learning_rate": 0.1,
    "table_learning_rate": 0.1, "table_decay": 0.0, "dense_weight_decay": 0.0,
    "init_std": "method",
}  # fmt: skip


def _tuned(rate: float, decay: float, **more: Any) -> dict[str, Any]:
    return {
        "dense_learning_rate": rate, "table_learning_rate": rate, "dense_weight_decay": decay,
        "table_decay": decay, **more,
    }  # fmt: skip


SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "bars-criteo-x4-001": {
        "*": {**_X4, "dim": 16, "num_ids": 910_747, "rules.min_count": 10},
        "fm": {},
        "fnn": _DEEP,
        "wide_deep": _DEEP,
        "deepfm": _DEEP,
        "dcn": {**_DEEP, "cross_layers": 4},
        "dcnv2": {
            "structure": "parallel", "kind": "full", "cross_layers": 3, "hidden": _TENS,
            "batch_norm": True, "dropout": 0.1, "monitor": "auc",
        },
        "xdeepfm": {
            **_DEEP, "cin": [64] * 3, "table_decay": 1e-4, "cin_activation": "identity",
            "split_half": False,
        },
        "ipnn": {"hidden": [1000] * 2, "dropout": 0.2},
        "fibinet": {
            "bilinear": "interaction", "share_bilinear": True, "reduction": 3,
            "hidden": [2000] * 3, "table_decay": 1e-6,
        },
        "masknet": {
            "kind": "parallel", "blocks": [500] * 2, "ratio": 0.1, "hidden": _TENS,
            "dropout": 0.3, "embedding_norm": False, "block_norm": False,
        },
        "finalmlp": {
            "hidden": _TENS, "dropout": 0.2, "hidden2": [500], "dropout2": 0.1, "heads": 50,
            "selection": False,
        },
        "autoint": {"flavor": "fuxictr", "layers": 5, "heads": 1, "head_dim": 64},
        "autoint_plus": {
            "flavor": "fuxictr", "layers": 5, "heads": 1, "head_dim": 64, "hidden": _TENS,
            "wide": True,
        },
        "lr": {"table_decay": 1e-7},
    },
    "bars-criteo-x4-002": {"*": {**_X4, "dim": 40, "rules.min_count": 2}},
    "bars-criteo-x1": {"*": {**_BARS, "seeds": 5}},
    "avazu-x4": {"*": {**_BARS, "dim": 16}},
    "unified-criteo": {
        "*": {
            **_UNIFIED, "dim": 39, "cross_layers": 2, "hidden": [748, 748], "batch_size": 512,
            "num_ids": 160_605, "budgets": _CRITEO, "dense_learning_rate": 2e-4,
            "table_learning_rate": 2e-4,
            "rows": {"train": 39_291_957, "validation": 3_274_330, "test": 3_274_330},
        }
    },
    "unified-avazu": {
        "*": {
            **_UNIFIED, "dim": 32, "cross_layers": 1, "hidden": [512, 512], "batch_size": 512,
            "num_ids": 252_838, "budgets": _AVAZU, "dense_learning_rate": 2e-4,
            "table_learning_rate": 2e-4,
        }
    },
    "unified-ml1m": {
        "*": {
            **_UNIFIED, "dim": 30, "cross_layers": 1, "hidden": [192], "batch_size": 128,
            "num_ids": 13_177, "budgets": _ML1M,
        }
    },
    "mlperf-dlrm-dcnv2": {
        "*": {
            "dim": 128, "bottom": [512, 256], "top": [1024, 1024, 512, 256], "cross_layers": 3,
            "rank": 512, "batch_size": 65_536, "epochs": 1, "evals_per_epoch": 20,
            "dense_optimizer": "adagrad", "table_optimizer": "adagrad", "table_eps": 1e-8,
            "dense_eps": 1e-8,
            "dense_learning_rate": 0.005, "table_learning_rate": 0.005, "table_decay": 0.0,
            "dense_weight_decay": 0.0, "schedule.warmup_steps": 0, "num_ids": 204_184_588,
            "init_std": "method",
            "rows": {"train": 4_195_197_692, "validation": 89_137_319, "test": 89_137_318},
        }
    },
    "dlrm-kaggle": {
        "*": {
            **_DLRM, "num_ids": 33_762_577, "metric": "accuracy",
            "rows": {"train": 39_291_958, "validation": 3_274_329, "test": 3_274_330},
        }
    },
    "torchrec-kaggle": {
        "*": {
            **_DLRM, "rules.min_count": 3,
            "rows": {"train": 39_291_958, "validation": 3_274_330, "test": 3_274_329},
        }
    },
    "autoint-criteo": {
        "*": {
            **_ADAM, "dim": 16, "batch_size": 1024, "epochs": 3, "flavor": "official_tf",
            "layers": 3, "heads": 2, "head_dim": 32, "dropout": 0.0, "init_std": 0.01,
            "rows": {"train": 36_672_493, "validation": 4_584_062, "test": 4_584_062},
        },
        "autoint_plus": {"hidden": [400, 400]},
    },
    "optembed-criteo": {
        "*": _OPTEMBED,
        "deepfm": _tuned(3e-5, 1e-3),
        "dcn": _tuned(3e-4, 1e-5, cross_layers=6),
        "fnn": _tuned(3e-4, 1e-5),
        "ipnn": _tuned(3e-4, 1e-5),
    },
    "optembed-avazu": {
        "*": _OPTEMBED,
        "deepfm": _tuned(3e-4, 1e-5),
        "dcn": _tuned(1e-4, 3e-5, cross_layers=6),
        "fnn": _tuned(1e-4, 3e-5),
        "ipnn": _tuned(1e-4, 3e-5),
    },
    "optembed-kdd12": {
        "*": _OPTEMBED,
        "deepfm": _tuned(3e-5, 1e-5),
        "dcn": _tuned(1e-5, 1e-6, cross_layers=6),
        "fnn": _tuned(1e-5, 1e-6),
        "ipnn": _tuned(1e-5, 1e-6),
    },
}  # fmt: skip
"""Protocol -> model (`*`: all of them) -> fields of training, options of the model, `rows`,
`num_ids`, `budgets` in bytes, and what else the file fixes."""

SEARCHES: dict[str, dict[str, tuple[float, float]]] = {
    "optembed-criteo": {
        "deepfm": (1e-4, 1e-4), "dcn": (1e-4, 1e-5), "fnn": (1e-4, 1e-5), "ipnn": (3e-5, 1e-6)
    },
    "optembed-avazu": {
        "deepfm": (1e-4, 1e-6), "dcn": (1e-4, 1e-4), "fnn": (1e-4, 1e-4), "ipnn": (1e-4, 1e-4)
    },
    "optembed-kdd12": {
        "deepfm": (1e-4, 1e-5), "dcn": (1e-4, 1e-5), "fnn": (1e-4, 1e-5), "ipnn": (1e-4, 1e-5)
    },
}  # fmt: skip
"""OptEmbed's rate of thresholds and alpha, for models without first-order weights."""

OF_LOGS = ("bars-criteo-x4-002", "bars-criteo-x1", "avazu-x4")
"""What differs between the models of these is from the logs of their runs alone."""

UNTOLD: dict[str, set[str]] = {
    "bars-criteo-x4-001": {"epochs", "monitor"},
    "bars-criteo-x4-002": {"epochs", "monitor"},
    "bars-criteo-x1": {"epochs", "monitor", "dim", "batch_size", "patience", "table_decay"},
    "avazu-x4": {"epochs", "monitor", "batch_size", "patience", "table_decay"},
    "unified-criteo": {"epochs", "decay_mode"},
    "unified-avazu": {"epochs", "decay_mode"},
    "unified-ml1m": {
        "epochs", "decay_mode", "evals_per_epoch", "patience", "dense_learning_rate",
        "table_learning_rate",
    },
    "dlrm-kaggle": {"evals_per_epoch"},
    "torchrec-kaggle": {"evals_per_epoch"},
    "autoint-criteo": {"evals_per_epoch"},
}  # fmt: skip
"""Fields that a file has and no second text tells."""
