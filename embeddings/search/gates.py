"""Gates of an example: which coordinates of its own embedding vectors it uses.

    a        = G(stop_gradient(X))                      logits of the gates of one example
    z        = relaxation of a Bernoulli(pi(a)) draw    in training
    z        = 1[pi(a) > 1/2]                           in evaluation, the same every time
    h        = z * X                                    (B, F, D)

*Binary concrete* (Maddison et al. 2017; Jang et al. 2017): ``s = sigmoid((a + logit(u)) / t)`` with
``u ~ U(0, 1)`` and ``pi = sigmoid(a)``. *Hard concrete* (Louizos et al. 2018) stretches it:
``clip(1.2 s - 0.1, 0, 1)``. *Gaussian* (stochastic gates, Yamada et al. 2020):
``clip(a + 0.5 + 0.5 e, 0, 1)`` with ``e ~ N(0, 1)`` and ``pi = Phi(2 a)``. *Straight-through*
gives ``1[s > 1/2]`` forward, so that ``E[z] = pi`` at any temperature, and the gradient of ``s``
backward.

Shapes: B examples, F features, S of them searched, D their width. Only those are gated. The linear
network has ``(F D + 1) S k`` parameters for ``k`` gates per feature: D, 1 or 1 + D.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

__all__ = [
    "Concrete",
    "GateLayer",
    "GateNetwork",
    "Gaussian",
    "Granularity",
    "NetworkKind",
    "Polarisation",
    "Relaxation",
]

Granularity = Literal["element", "field", "hierarchical"]
NetworkKind = Literal["linear", "mlp"]
Polarisation = Literal["quadratic", "deviation"]


class Relaxation(Protocol):
    """A continuous stand-in for Bernoulli draws, differentiable in the logits."""

    def noise(self, logits: Tensor) -> Tensor:
        """What a draw needs, of the shape of ``logits``."""
        ...

    def soft(self, logits: Tensor, noise: Tensor, temperature: float) -> Tensor:
        """The relaxed gates, in [0, 1]; above 1/2 with probability :meth:`probability`."""
        ...

    def probability(self, logits: Tensor) -> Tensor:
        """``pi``: above 1/2 exactly where the logit is above 0."""
        ...

    def positive(self, logits: Tensor, temperature: float) -> Tensor:
        """``P(soft > 0)``; ``pi`` where a relaxed gate is never 0."""
        ...


@dataclass(frozen=True)
class Concrete:
    """The binary concrete distribution; ``stretch`` makes it hard concrete."""

    stretch: bool = False
    low: float = -0.1
    high: float = 1.1

    def noise(self, logits: Tensor) -> Tensor:
        """Uniform, away from 0 and 1."""
        tiny = torch.finfo(logits.dtype).eps
        return torch.rand_like(logits).clamp(tiny, 1 - tiny)

    def soft(self, logits: Tensor, noise: Tensor, temperature: float) -> Tensor:
        s = torch.sigmoid((logits + torch.logit(noise)) / temperature)
        return (s * (self.high - self.low) + self.low).clamp(0, 1) if self.stretch else s

    def probability(self, logits: Tensor) -> Tensor:
        return torch.sigmoid(logits)

    def positive(self, logits: Tensor, temperature: float) -> Tensor:
        shift = temperature * math.log(-self.low / self.high) if self.stretch else 0.0
        return torch.sigmoid(logits - shift)


@dataclass(frozen=True)
class Gaussian:
    """Stochastic gates: a clipped normal. The temperature has no part in it."""

    sigma: float = 0.5

    def noise(self, logits: Tensor) -> Tensor:
        """Standard normal."""
        return torch.randn_like(logits)

    def soft(self, logits: Tensor, noise: Tensor, temperature: float) -> Tensor:
        return (logits + self.sigma * noise + 0.5).clamp(0, 1)

    def probability(self, logits: Tensor) -> Tensor:
        return torch.special.ndtr(logits / self.sigma)

    def positive(self, logits: Tensor, temperature: float) -> Tensor:
        return torch.special.ndtr((logits + 0.5) / self.sigma)


class GateNetwork(nn.Module):
    """Logits of an example's gates from its vectors.

    ``linear`` sees all features at once: one layer F D -> S k. ``mlp`` is shared by the features
    and sees one at a time: D -> hidden -> k, with ReLU.

    Args:
        searched: places of the gated features among the F.
        bias: the last layer's initial bias; above 0, gates start open.
    """

    searched: Tensor

    def __init__(
        self,
        num_features: int,
        dim: int,
        searched: Sequence[int],
        *,
        granularity: Granularity = "element",
        kind: NetworkKind = "linear",
        hidden_dim: int = 16,
        bias: float = 2.0,
    ) -> None:
        super().__init__()
        self.granularity = granularity
        self.kind = kind
        num_gates = {"element": dim, "field": 1, "hierarchical": 1 + dim}[granularity]
        self.shape = (len(searched), num_gates)
        self.register_buffer("searched", torch.tensor(list(searched)), persistent=False)
        last = nn.Linear(
            num_features * dim if kind == "linear" else hidden_dim,
            num_gates * (len(searched) if kind == "linear" else 1),
        )
        nn.init.constant_(last.bias, bias)
        self.layers = nn.Sequential(last)
        if kind == "mlp":
            self.layers = nn.Sequential(nn.Linear(dim, hidden_dim), nn.ReLU(), last)

    def forward(self, vectors: Tensor) -> tuple[Tensor, ...]:
        """``(B, F, D)`` -> the levels of gates, each ``(B, S, D)`` or ``(B, S, 1)``: one of them,
        or for ``hierarchical`` both, to be multiplied."""
        if self.kind == "linear":
            logits = self.layers(vectors.flatten(1)).unflatten(1, self.shape)
        else:
            logits = self.layers(vectors.index_select(1, self.searched))
        return (logits[..., :1], logits[..., 1:]) if len(self) == 2 else (logits,)

    def __len__(self) -> int:
        """Levels of gates."""
        return 2 if self.granularity == "hierarchical" else 1

    def deterministic(self, vectors: Tensor) -> Tensor:
        """``z* = 1[pi > 1/2]`` of all searched coordinates: bool ``(B, S, D)``."""
        gates = [logits > 0 for logits in self(vectors)]
        return torch.stack(torch.broadcast_tensors(*gates)).all(0).expand(-1, -1, vectors.shape[-1])


class GateLayer(nn.Module):
    """``(B, F, D) -> (B, F, D)``: the vectors of searched features times their gates.

    Args:
        network: gives the logits, from vectors without their gradient.
        relaxation: how a draw is made differentiable.
        straight_through: 0 or 1 forward, the relaxation's gradient backward.
        temperature: at the start; see :attr:`temperature`.
    """

    def __init__(
        self,
        network: GateNetwork,
        relaxation: Relaxation,
        *,
        straight_through: bool = True,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        self.network = network
        self.relaxation = relaxation
        self.straight_through = straight_through
        self.temperature = temperature
        """Of the next draws; lowered from outside as training goes on."""
        self._logits: tuple[Tensor, ...] | None = None

    def forward(self, vectors: Tensor) -> Tensor:
        logits = self.network(vectors.detach())
        if self.training:
            self._logits = logits
            gates = math.prod(
                [self.draw(level) for level in logits[1:]], start=self.draw(logits[0])
            )
        else:
            gates = self.network.deterministic(vectors.detach()).to(vectors.dtype)
        gates = gates.expand(-1, -1, vectors.shape[-1])
        return vectors * torch.ones_like(vectors).index_copy(1, self.network.searched, gates)

    def draw(self, logits: Tensor, noise: Tensor | None = None) -> Tensor:
        """One draw of gates, of the shape of ``logits``."""
        noise = self.relaxation.noise(logits) if noise is None else noise
        soft = self.relaxation.soft(logits, noise, self.temperature)
        if not self.straight_through:
            return soft
        return (soft > 0.5).to(soft.dtype) + (soft - soft.detach())

    @torch.no_grad()
    def probabilities(self, vectors: Tensor) -> Tensor:
        """``pi`` of every searched coordinate, ``(B, S, D)``; of levels, their product."""
        levels = [self.relaxation.probability(level) for level in self.network(vectors)]
        return (
            torch.stack(torch.broadcast_tensors(*levels)).prod(0).expand(-1, -1, vectors.shape[-1])
        )

    @property
    def seen(self) -> bool:
        """True once there was a training batch."""
        return self._logits is not None

    def open_share(self) -> Tensor:
        """Mean ``P(gate > 0)`` over the coordinates of the last training batch."""
        shares = [self._open(level) for level in self._last()]
        return torch.stack(torch.broadcast_tensors(*shares)).prod(0).mean()

    def polarisation(self, kind: Polarisation = "quadratic") -> Tensor:
        """How far the last training batch's gates are from 0 and 1.

        ``quadratic``: mean ``4 pi (1 - pi)``, 0 where all are decided. ``deviation``: minus the
        mean distance of ``pi`` from its mean, as for the polarisation of neurons.
        """
        pi = torch.cat([self.relaxation.probability(level).flatten() for level in self._last()])
        if kind == "quadratic":
            return (4 * pi * (1 - pi)).mean()
        return -(pi - pi.mean()).abs().mean()

    def decided_share(self) -> float:
        """Share of the last training batch's gates with ``pi`` outside [0.02, 0.98]."""
        pi = torch.cat([self.relaxation.probability(level).flatten() for level in self._last()])
        return float(((pi < 0.02) | (pi > 0.98)).float().mean())

    def _open(self, logits: Tensor) -> Tensor:
        if self.straight_through:
            return self.relaxation.probability(logits)
        return self.relaxation.positive(logits, self.temperature)

    def _last(self) -> tuple[Tensor, ...]:
        if self._logits is None:
            raise RuntimeError("the gates have seen no training batch yet; run the model first")
        return self._logits
