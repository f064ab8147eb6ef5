"""iHAS, a *reconstruction*: columns chosen by example, then one model per cluster of examples.

Instance-wise hierarchical architecture search, Yu et al., CIKM 2023. Certain from its abstract and
a summary: Bernoulli gates on the embedding dimensions of each example, a regulariser that drives
them to 0 and 1, deterministic gates clustered with k-means, one recommender retrained per cluster
with the dimensions that the cluster selects. We could not read its equations and found no public
code. All below is ours:

1. *Joint*: weights and gates (``gates.py``) learn from the same training batches, by
   ``L + l1 * mean P(gate > 0) + l2 * mean 4 pi (1 - pi)``. In the last epoch the tables are frozen,
   so that the gates do not chase vectors that move.
2. *Clusters*: k-means on ``z* = 1[pi > 1/2]`` of a sample of training rows (``clusters.py``).
3. *Derive*: ``M_c[f, k] = 1[mean over cluster c of z* >= threshold]``; at a budget the threshold is
   lowered as far as the bytes of every copy and of the router allow. Among entries of one mean the
   one with the larger mean ``pi`` comes first.
4. *Retrain*: K fresh models, each on the rows that the router sends it. K = 1 is one plain plan.

Bytes while searching: the full tables and the gate network, ``4 (F D + 1) S k``.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field, JsonValue, PositiveFloat
from torch import Tensor, nn

from compactrec.embeddings.budget import full_plan
from compactrec.embeddings.placing import logical_table
from compactrec.embeddings.plan import AnyPlan
from compactrec.embeddings.routers import (
    GateRouterConfig,
    LinearRouterConfig,
    RouterConfig,
    build_router,
)
from compactrec.embeddings.search.base import (
    DENSE_ADAM,
    BudgetTooSmallError,
    Derived,
    Phase,
    Search,
    SearchOptions,
    SearchTask,
    Trained,
    register_search,
)
from compactrec.embeddings.search.cluster_plans import (
    RankedMasks,
    SeenIds,
    cluster_plan,
    seen_ids,
)
from compactrec.embeddings.search.clusters import (
    Clusters,
    bags_of_rows,
    find_clusters,
    fit_linear,
    gate_means,
)
from compactrec.embeddings.search.gate_router import cluster_points
from compactrec.embeddings.search.gates import (
    Concrete,
    GateLayer,
    GateNetwork,
    Gaussian,
    Granularity,
    NetworkKind,
    Polarisation,
)
from compactrec.embeddings.search.kmeans import nearest
from compactrec.embeddings.search.pruning import largest_within
from compactrec.embeddings.search.supernet import Supernet
from compactrec.embeddings.size import size

__all__ = ["IhasOptions", "IhasSupernet", "derive_ihas"]

_BIAS = {"concrete": 2.0, "hard_concrete": 2.0, "gaussian": 0.5}
_TEMPERATURES = {
    "concrete": (1.0, 0.1),
    "hard_concrete": (2 / 3, 2 / 3),
    "gaussian": (1.0, 1.0),
}


class IhasOptions(SearchOptions):
    """Options of the search. Every default is ours."""

    granularity: Granularity = "element"
    """A gate per column, per feature, or both multiplied."""
    network: NetworkKind = "linear"
    hidden_dim: int = Field(default=16, ge=1)
    """For ``mlp``."""
    relaxation: Literal["concrete", "hard_concrete", "gaussian"] = "concrete"
    straight_through: bool = True
    """0 or 1 forward, the relaxation's gradient backward."""
    bias: float | None = None
    """Where gates start; None is 2 (0.5 for ``gaussian``, which has no gradient far from 0)."""
    temperatures: tuple[PositiveFloat, PositiveFloat] | None = None
    """First and last, above 0, falling by a constant factor; None is 1 and 0.1, or 2/3 throughout
    for ``hard_concrete``. ``gaussian`` has none."""
    sparsity: float = Field(default=0.01, ge=0)
    """l1"""
    polarisation: float = Field(default=0.003, ge=0)
    """l2. It drives an open gate further open: with ``quadratic`` a gate at ``pi`` closes without
    the loss's help only where ``l1 > 4 (2 pi - 1) l2``; that is 3.05 l2 at the start."""
    polarisation_kind: Polarisation = "quadratic"
    gate_learning_rate: float = Field(default=0.01, gt=0)
    """Of Adam."""
    epochs: int = Field(default=2, ge=1)
    freeze_last_epoch: bool = True
    num_clusters: int = Field(default=4, ge=1)
    """K; fewer come out where gates do not differ so much, or clusters are small."""
    min_share: float = Field(default=0.05, ge=0, lt=1)
    """Of the rows; a smaller cluster is dissolved."""
    compared: Literal["gates", "vectors"] = "gates"
    """What is clustered: gates, or the vectors times their gates."""
    cluster_rows: int = Field(default=100_000, ge=1)
    """Training rows to cluster."""
    threshold: float = Field(default=0.5, ge=0, le=1)
    """Share of a cluster's rows that must keep a column, where no budget is given."""
    tables: Literal["separate", "shared"] = "separate"
    """A set of tables for each cluster, or one with the columns that any of them keeps."""
    router: Literal["linear", "gates"] = "linear"
    router_buckets: int = Field(default=4096, ge=1)
    limit_rows: bool = False
    """Separate tables hold only ids that the cluster's training rows have; others give zeros."""


class IhasSupernet(Supernet):
    """Full tables, and gates over the vectors of an example."""

    def __init__(self, task: SearchTask) -> None:
        o: IhasOptions = task.options
        names = [f.name for f in task.features]
        network = GateNetwork(
            len(names),
            task.dim,
            [names.index(f.name) for f in task.searched_features],
            granularity=o.granularity,
            kind=o.network,
            hidden_dim=o.hidden_dim,
            bias=_BIAS[o.relaxation] if o.bias is None else o.bias,
        )
        relaxation = (
            Gaussian() if o.relaxation == "gaussian" else Concrete(o.relaxation != "concrete")
        )
        gates = GateLayer(network, relaxation, straight_through=o.straight_through)
        super().__init__(task, full_plan(task.features), _phases(o), gates)
        self.options = o
        self.gates = gates

    def architecture_parameters(self) -> list[nn.Parameter]:
        return list(self.gates.parameters())

    def architecture_optimizer(self) -> torch.optim.Optimizer:
        rate = self.options.gate_learning_rate
        return torch.optim.Adam(self.architecture_parameters(), lr=rate)

    def before_step(self, phase: Phase, done: float) -> None:
        """Anneal over all phases together."""
        first, last = self.options.temperatures or _TEMPERATURES[self.options.relaxation]
        before = sum(p.epochs for p in self.phases[: self.phases.index(phase)])
        progress = (before + done * phase.epochs) / sum(p.epochs for p in self.phases)
        self.gates.temperature = first * (last / first) ** progress

    def penalty(self) -> Tensor:
        o = self.options
        undecided = self.gates.polarisation(o.polarisation_kind)
        return o.sparsity * self.gates.open_share() + o.polarisation * undecided

    def effective_tables(self) -> dict[str, Tensor]:
        """The tables as they are: what an example's gates take away depends on its other ids, so
        no table of one feature can hold it."""
        return {f.name: logical_table(self.collection, f.name) for f in self.task.features}

    def figures(self) -> dict[str, float]:
        if not self.gates.seen:
            return {}
        return {
            "open": float(self.gates.open_share().detach()),
            "decided": self.gates.decided_share(),
            "temperature": self.gates.temperature,
        }


def _phases(o: IhasOptions) -> tuple[Phase, ...]:
    frozen = 1 if o.freeze_last_epoch and o.epochs > 1 else 0
    joint = Phase("joint", o.epochs - frozen, architecture="train", keep="last")
    settle = Phase("settle", 1, architecture="train", weights="dense", keep="last")
    return (joint, settle)[: 1 + frozen]


@dataclass(frozen=True)
class _Routing:
    """The router, and where it sends the sampled rows."""

    router: RouterConfig | None
    """None where there is one cluster."""
    arrays: dict[str, Tensor]
    owners: tuple[Tensor, ...]
    clusters: Clusters
    number: Tensor
    """Of each centroid: the number of its cluster behind the router, -1 for a dissolved one."""

    @property
    def num_clusters(self) -> int:
        """K"""
        return 1 if self.router is None else self.router.num_clusters


def derive_ihas(trained: Trained, budget: int | None) -> Derived:
    """Clusters, a router, and the columns that each cluster keeps within ``budget``.

    Raises ``ValueError`` naming the smallest possible bytes.
    """
    net = trained.supernet
    assert isinstance(net, IhasSupernet)
    o = net.options
    routing = _route(trained, net)
    means, chances = gate_means(trained, net.gates, routing.owners, o.cluster_rows)
    masks_of = RankedMasks(means, chances)
    keep = _seen_ids(trained, routing) if o.limit_rows and o.tables == "separate" else None

    def plan(masks: Tensor) -> AnyPlan:
        shared = o.tables == "shared"
        return cluster_plan(trained.task, routing.router, routing.arrays, masks, keep, shared)

    if budget is None:
        masks = masks_of(int((means >= o.threshold).sum()))
    else:
        try:
            masks = largest_within(
                masks_of, lambda m: size(plan(m)).serving_bytes, plan, means.numel(), budget
            )
        except BudgetTooSmallError as error:
            raise BudgetTooSmallError(
                f"ihas: {error}; or ask for fewer clusters, or for tables='shared'"
            ) from None
    return Derived(plan(masks), notes=_notes(trained, net, routing, means, masks))


def _route(trained: Trained, net: IhasSupernet) -> _Routing:
    """Cluster the sample and make the router."""
    o, network, task = net.options, net.gates.network, trained.task
    clusters = find_clusters(
        trained,
        network,
        compared=o.compared,
        num_rows=o.cluster_rows,
        num_clusters=o.num_clusters,
        min_share=o.min_share,
    )
    searched = tuple(f.name for f in task.searched_features)
    number = torch.arange(clusters.num_clusters)
    if clusters.num_clusters == 1:
        return _Routing(None, {}, clusters.owners, clusters, number)
    if o.router == "gates":
        config = GateRouterConfig(
            num_clusters=clusters.num_clusters,
            searched=searched,
            granularity=o.granularity,
            network=o.network,
            hidden_dim=o.hidden_dim,
            compared=o.compared,
        )
        arrays = {f"table.{name}": t.contiguous() for name, t in net.effective_tables().items()}
        arrays |= {f"gate.{n}": t.detach().clone() for n, t in network.state_dict().items()}
        arrays["centroids"] = clusters.centroids.contiguous()
        return _Routing(config, arrays, clusters.owners, clusters, number)
    fit = fit_linear(clusters, searched, num_buckets=o.router_buckets, min_share=o.min_share)
    number = torch.full_like(number, -1).index_copy(
        0, torch.tensor(fit.kept), torch.arange(fit.num_clusters)
    )
    if fit.num_clusters == 1:
        return _Routing(None, {}, fit.owners, clusters, number)
    linear = LinearRouterConfig(
        num_clusters=fit.num_clusters, searched=searched, num_buckets=o.router_buckets
    )
    arrays = {"weight": fit.router.weight, "bias": fit.router.bias}
    return _Routing(linear, arrays, fit.owners, clusters, number)


def _seen_ids(trained: Trained, routing: _Routing) -> SeenIds:
    """Which ids the training rows of each cluster have: all rows, once more."""
    task, names = trained.task, [f.name for f in trained.task.searched_features]
    router = None
    if routing.router is not None:
        router = build_router(routing.router, task.features, routing.arrays)
    return seen_ids(trained, names, router, routing.num_clusters)


def _notes(
    trained: Trained, net: IhasSupernet, routing: _Routing, means: Tensor, masks: Tensor
) -> dict[str, JsonValue]:
    """What was found, for the record."""
    owners = torch.cat(routing.owners)
    shares = owners.bincount(minlength=len(masks)).double() / len(owners)
    names = [f.name for f in trained.task.searched_features]
    notes: dict[str, JsonValue] = {
        "reconstruction": True,
        "clusters": len(masks),
        "shares": shares.tolist(),
        "mean_gate": float(means.mean()),
        "kept_columns": [dict(zip(names, mask.sum(1).tolist(), strict=True)) for mask in masks],
    }
    if routing.router is not None and routing.router.kind == "linear":
        notes["router_agreement"] = _agreement(trained, net, routing)
    return notes


def _agreement(trained: Trained, net: IhasSupernet, routing: _Routing) -> float:
    """Share of validation rows that the linear router sends where their gates belong, by centroids
    (a dissolved cluster agrees with nobody). Labels are not read."""
    assert routing.router is not None
    router = build_router(routing.router, trained.task.features, routing.arrays)
    same = total = 0
    for rows in trained.rows("validation", net.options.cluster_rows):
        points = cluster_points(net.gates.network, rows.vectors, net.options.compared)
        where = nearest(points, routing.clusters.centroids)
        renumbered = routing.number[where]
        same += int((renumbered == router(bags_of_rows(rows))).sum())
        total += len(where)
    return same / max(1, total)


register_search(
    Search(
        name="ihas",
        title="iHAS (a reconstruction): columns by example, a model per cluster",
        paper="after Yu et al., CIKM 2023; equations are ours",
        formula="h = z(x) * X(x); k-means on z; one model per cluster with columns M_c",
        options=IhasOptions,
        supernet=IhasSupernet,
        derive=derive_ihas,
        training=DENSE_ADAM,
    )
)
