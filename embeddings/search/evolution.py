"""Evolution over widths: one whole number in 1 .. D for every feature, judged by a fitness.

Each generation judges its candidates (in one call, none twice), sorts them, and makes the next one:
copies of the ``num_mutations`` best, every gene drawn again with ``mutation_probability``, and
``num_crossovers`` children of two of the ``num_parents`` best, cut at one place. What comes back is
the best candidate ever judged. With a budget only candidates that fit are
judged: genes drawn at random are drawn again, smaller, until one does, and what is left is used up.

``strict_official`` is the published code of OptEmbed as it runs, for comparisons with its figures:
mutation writes into the parent, which is also the best one remembered, so that what is saved is not
what was judged; candidates are sorted but not their scores, so that the best score it logs is that
of whatever stood first in a population; a mutated gene is never 1; the cut is drawn from 1 .. D,
not from 1 .. F - 1, so that most children are copies where F is small; parents are the best
``num_crossovers + 1``. It knows no budget, and asking for both is an error.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from compactrec.embeddings.search.base import BudgetTooSmallError, SearchOptions

__all__ = ["Budget", "EvolutionOptions", "Evolved", "evolve"]

Genes = NDArray[np.int64]
Scores = NDArray[np.float64]
Fitness = Callable[[Genes], Scores]
"""``(C, F)`` widths -> ``(C,)``, larger is better."""


class EvolutionOptions(SearchOptions):
    """Settings of the evolution; the defaults are the published ones."""

    generations: int = Field(default=30, ge=1)
    num_mutations: int = Field(default=10, ge=1)
    num_crossovers: int = Field(default=10, ge=1)
    num_parents: int = Field(default=15, ge=2)
    """Documented by the authors; their code takes the best 11."""
    mutation_probability: float = Field(default=0.1, ge=0, le=1)
    strict_official: bool = False


@dataclass(frozen=True)
class Budget:
    """What a candidate may cost."""

    costs: NDArray[np.int64]
    """``(F, D)`` bytes of each feature at widths 1 .. D; smallest at 1. They need not rise with
    every step: few rows of width 3 take more than as many of width 4."""
    limit: int
    rest: int = 0
    """Bytes of everything else that the limit is for."""

    def of(self, genes: Genes) -> int:
        """Bytes of one candidate, the rest included."""
        return self.rest + int(self.costs[np.arange(len(genes)), genes - 1].sum())

    def fits(self, genes: Genes) -> bool:
        """Whether a candidate may be judged."""
        return self.of(genes) <= self.limit


@dataclass(frozen=True)
class Evolved:
    """What an evolution gives."""

    best: Genes
    """``(F,)`` widths of the candidate that is to be built."""
    fitness: float
    """That of ``best``, the best that was seen; with ``strict_official`` the score it logs."""
    history: tuple[float, ...]
    """The best so far after every generation."""
    num_judged: int
    """Different candidates that the fitness was asked for."""


def evolve(
    fitness: Fitness,
    num_genes: int,
    dim: int,
    options: EvolutionOptions,
    rng: np.random.Generator,
    budget: Budget | None = None,
) -> Evolved:
    """The best widths found.

    Raises:
        ValueError: not even widths of 1 fit the budget (names their bytes); a budget for
            ``strict_official``; a fitness that is not a finite number for every candidate.
    """
    if budget is not None and options.strict_official:
        raise ValueError(
            "strict_official is the published code, which knows no budget; leave the budget or "
            "strict_official out"
        )
    if budget is not None and not budget.fits(np.ones(num_genes, dtype=np.int64)):
        smallest = budget.of(np.ones(num_genes, dtype=np.int64))
        raise BudgetTooSmallError(
            f"the smallest widths take {smallest:,} bytes, of which {budget.rest:,} are not "
            f"searched, and the budget is {budget.limit:,}; raise the budget"
        )
    if options.strict_official:
        return _official(fitness, num_genes, dim, options, rng)
    judge = _Judge(fitness)
    size = options.num_mutations + options.num_crossovers
    population = [_fitting(_draw(num_genes, dim, rng), dim, budget, rng) for _ in range(size)]
    best, best_score, history = population[0], -np.inf, []
    for _ in range(options.generations):
        scores = judge(population)
        order = np.argsort(-scores, kind="stable")
        if scores[order[0]] > best_score:
            best, best_score = population[order[0]].copy(), float(scores[order[0]])
        history.append(best_score)
        parents = [population[i] for i in order[: options.num_parents]]
        children = [
            _mutated(parents[i % len(parents)], dim, options, rng)
            for i in range(options.num_mutations)
        ]
        for _ in range(options.num_crossovers):
            one, other = rng.choice(len(parents), 2, replace=False)
            children.append(_crossed(parents[one], parents[other], rng))
        population = [_fitting(child, dim, budget, rng) for child in children]
    return Evolved(best, best_score, tuple(history), judge.num_judged)


class _Judge:
    """The fitness, asked once for every candidate."""

    def __init__(self, fitness: Fitness) -> None:
        self._fitness = fitness
        self._known: dict[bytes, float] = {}

    @property
    def num_judged(self) -> int:
        return len(self._known)

    def __call__(self, population: list[Genes]) -> Scores:
        fresh = {c.tobytes(): c for c in population if c.tobytes() not in self._known}
        if fresh:
            scores = np.asarray(self._fitness(np.stack(list(fresh.values()))), dtype=float)
            if scores.shape != (len(fresh),) or not np.isfinite(scores).all():
                raise ValueError(
                    f"the fitness must give one finite number for each of {len(fresh)} candidates, "
                    f"got shape {scores.shape} and {np.isfinite(scores).sum()} finite numbers; "
                    f"did training diverge, or has the sample one class only?"
                )
            self._known |= dict(zip(fresh, scores.tolist(), strict=True))
        return np.array([self._known[c.tobytes()] for c in population])


def _draw(num_genes: int, dim: int, rng: np.random.Generator) -> Genes:
    return rng.integers(1, dim + 1, num_genes)


def _mutated(parent: Genes, dim: int, options: EvolutionOptions, rng: np.random.Generator) -> Genes:
    """A copy with some genes drawn again."""
    again = rng.random(len(parent)) < options.mutation_probability
    return np.where(again, _draw(len(parent), dim, rng), parent)


def _crossed(one: Genes, other: Genes, rng: np.random.Generator) -> Genes:
    """The front of one and the rest of the other."""
    if len(one) < 2:
        return one.copy()
    cut = rng.integers(1, len(one))
    return np.concatenate([one[:cut], other[cut:]])


def _fitting(genes: Genes, dim: int, budget: Budget | None, rng: np.random.Generator) -> Genes:
    """The candidate itself where it fits, else a smaller one that uses the budget."""
    if budget is None or budget.fits(genes):
        return genes
    genes = genes.copy()
    while not budget.fits(genes):
        wide = np.flatnonzero(genes > 1)
        gene = wide[rng.integers(len(wide))]
        genes[gene] = rng.integers(1, genes[gene])
    for gene in rng.permutation(len(genes)):
        room = budget.limit - budget.of(genes) + int(budget.costs[gene, genes[gene] - 1])
        widths = np.flatnonzero(budget.costs[gene] <= room) + 1
        genes[gene] = rng.choice(widths[widths >= genes[gene]])
    return genes


def _official(
    fitness: Fitness,
    num_genes: int,
    dim: int,
    options: EvolutionOptions,
    rng: np.random.Generator,
) -> Evolved:
    """The published code, faults included."""
    judge = _Judge(fitness)
    size = options.num_mutations + options.num_crossovers
    population = [_draw(num_genes, dim, rng) for _ in range(size)]
    best, best_score, history = population[0], -np.inf, []
    for _ in range(options.generations):
        scores = judge(population)
        population = [population[i] for i in np.argsort(-scores, kind="stable")]
        if scores[0] > best_score:  # of the first one before sorting
            best, best_score = population[0], float(scores[0])  # a reference, no copy
        history.append(best_score)
        most = options.num_crossovers
        mutated = []
        for parent in population[: options.num_mutations]:
            for gene in range(num_genes):
                if rng.random() < options.mutation_probability:
                    parent[gene] = rng.integers(2, dim + 1)  # in place, and never 1
            mutated.append(parent)
        crossed = []
        for pair in rng.choice((most + 1) ** 2, options.num_crossovers, replace=False):
            one, other = population[pair // (most + 1)], population[pair % (most + 1)]
            cut = rng.integers(1, dim + 1)
            crossed.append(np.concatenate([one[:cut], other[cut:]]))
        population = mutated + crossed
    return Evolved(best, best_score, tuple(history), judge.num_judged)
