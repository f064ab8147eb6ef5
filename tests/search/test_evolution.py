"""The evolution: what it must never do, and what the published code does."""

from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compactrec.embeddings.search import evolution
from compactrec.embeddings.search.evolution import Budget, EvolutionOptions, Evolved, evolve

NUM_GENES, DIM = 39, 64
"""Fields and width of the published runs on Criteo."""


class Toy:
    """A separable fitness, minus the distance to known widths; notes what it is asked."""

    def __init__(self, seed: int, num_genes: int = NUM_GENES, dim: int = DIM) -> None:
        self.target = np.random.default_rng(seed).integers(1, dim + 1, num_genes)
        self.asked: list[np.ndarray] = []
        self.calls = 0

    def __call__(self, genes: np.ndarray) -> np.ndarray:
        self.calls += 1
        self.asked += [g.copy() for g in genes]
        return self.score(genes)

    def score(self, genes: np.ndarray) -> np.ndarray:
        return -np.abs(np.atleast_2d(genes) - self.target).sum(1).astype(float)


def run(seed: int, **options: object) -> tuple[Toy, Evolved]:
    toy = Toy(seed)
    settings_ = EvolutionOptions.model_validate(options)
    rng = np.random.default_rng(seed + 1000)
    return toy, evolve(toy, NUM_GENES, DIM, settings_, rng)


def test_what_comes_back_is_what_was_judged_best() -> None:
    for seed in range(10):
        toy, found = run(seed)
        assert toy.score(found.best)[0] == found.fitness
        assert found.fitness == max(toy.score(np.stack(toy.asked)))
        assert list(found.history) == sorted(found.history)
        assert len(found.history) == 30


def test_candidates_are_judged_together_and_never_twice() -> None:
    toy, found = run(0)
    assert toy.calls <= 30
    assert len({g.tobytes() for g in toy.asked}) == len(toy.asked) == found.num_judged <= 600


class Counting(evolution._Judge):
    """Notes how many candidates every generation has, those already judged among them."""

    sizes: ClassVar[list[int]] = []

    def __call__(self, population: list[np.ndarray]) -> np.ndarray:
        self.sizes.append(len(population))
        return super().__call__(population)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(("mutations", "crossovers", "parents"), [(10, 4, 15), (3, 9, 2)])
def test_every_generation_has_as_many_candidates(
    strict: bool, mutations: int, crossovers: int, parents: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evolution, "_Judge", Counting)
    monkeypatch.setattr(Counting, "sizes", [])
    found = run(
        0, generations=7, num_mutations=mutations, num_crossovers=crossovers, num_parents=parents,
        strict_official=strict,
    )[1]  # fmt: skip
    assert Counting.sizes == [mutations + crossovers] * 7
    assert found.num_judged <= 7 * (mutations + crossovers)


def test_an_easy_optimum_is_reached() -> None:
    toy = Toy(3, num_genes=4, dim=4)
    options = EvolutionOptions(generations=60)
    found = evolve(toy, 4, 4, options, np.random.default_rng(1))
    assert found.fitness == 0.0
    assert np.array_equal(found.best, toy.target)


def test_a_child_shares_nothing_with_its_parents() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.integers(1, DIM + 1, (2, NUM_GENES))
    before = one.copy(), other.copy()
    mutated = evolution._mutated(one, DIM, EvolutionOptions(mutation_probability=1.0), rng)
    crossed = evolution._crossed(one, other, rng)
    single = evolution._crossed(one[:1], other[:1], rng)
    smaller = evolution._fitting(
        one, DIM, Budget(np.tile(np.arange(DIM), (NUM_GENES, 1)), 100), rng
    )
    for child in (mutated, crossed, single, smaller):
        child[:] = 0
    assert np.array_equal(one, before[0])
    assert np.array_equal(other, before[1])


@pytest.mark.parametrize("budget", [None, 20_000])
def test_parents_are_not_mutated(budget: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutation comes first, so what is crossed shows whether it wrote into a parent."""
    judged: set[bytes] = set()
    parents: list[np.ndarray] = []

    def fitness(genes: np.ndarray) -> np.ndarray:
        judged.update(g.tobytes() for g in genes)
        return -genes.sum(1).astype(float)

    def crossed(one: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        parents.extend([one.copy(), other.copy()])
        return original(one, other, rng)

    original = evolution._crossed
    monkeypatch.setattr(evolution, "_crossed", crossed)
    costs = np.tile(np.arange(1, DIM + 1) * 10, (NUM_GENES, 1))
    limit = None if budget is None else Budget(costs, budget)
    options = EvolutionOptions(generations=6)
    evolve(fitness, NUM_GENES, DIM, options, np.random.default_rng(0), limit)
    assert len(parents) == 2 * 6 * 10
    assert all(parent.tobytes() in judged for parent in parents)


class Sorting(evolution._Judge):
    """Sorts what it judges, so that the published code logs the best score, not the first."""

    def __call__(self, population: list[np.ndarray]) -> np.ndarray:
        scores = super().__call__(population)
        order = np.argsort(-scores, kind="stable")
        population[:] = [population[i] for i in order]
        return scores[order]


def cut_at_a_width(one: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The published cut, in 1 .. D."""
    cut = rng.integers(1, DIM + 1)
    return np.concatenate([one[:cut], other[cut:]])


LOGGED, SAVED = (-422, 14), (-537, 22)
COPIES = (-359, 14)
COPIES_AND_CUTS = (-332, 13)
"""Means of 200 runs of a simulation by others, and three standard errors of the difference to 100
of ours: ``3 s sqrt(1 / 200 + 1 / 100)``, s about 38, 60, 37 and 35. Neighbours are further apart.
They log the best score of a population and take the best 11 as parents."""


def means(**options: object) -> tuple[float, float, float]:
    """Over 100 runs: what is logged, the fitness of what is saved, how often they differ."""
    logged, saved = [], []
    for seed in range(100):
        toy, found = run(seed, **options)
        logged.append(found.fitness)
        saved.append(float(toy.score(found.best)[0]))
    differ = np.mean([s != f for s, f in zip(saved, logged, strict=True)])
    return float(np.mean(logged)), float(np.mean(saved)), float(differ)


def near(value: float, expected: tuple[float, float]) -> bool:
    return abs(value - expected[0]) <= expected[1]


def test_copies_and_cuts_of_the_fixed_code_have_the_simulated_fitness() -> None:
    logged, saved, differ = means(num_parents=11)
    assert near(logged, COPIES_AND_CUTS), logged
    assert (saved, differ) == (logged, 0.0)


def test_copies_without_cuts_have_the_simulated_fitness(monkeypatch: pytest.MonkeyPatch) -> None:
    """No option cuts in 1 .. D and copies; the published cut is put in."""
    monkeypatch.setattr(evolution, "_crossed", cut_at_a_width)
    logged, saved, differ = means(num_parents=11)
    assert near(logged, COPIES), logged
    assert (saved, differ) == (logged, 0.0)


def test_the_published_code_saves_what_it_did_not_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    """On this toy the saved candidate is not what was logged, and is worse. The simulation sorts
    scores, which no option does with ``strict_official``; a judge that sorts is put in."""
    monkeypatch.setattr(evolution, "_Judge", Sorting)
    logged, saved, differ = means(strict_official=True)
    assert near(logged, LOGGED), logged
    assert near(saved, SAVED), saved
    assert differ >= 0.97
    monkeypatch.undo()
    unsorted_, saved_unsorted, differ = means(strict_official=True)
    assert unsorted_ < logged - 10, "the first score of an unsorted list is seldom the best"
    assert saved_unsorted < unsorted_ - 60
    assert differ >= 0.97


def test_fifteen_parents_are_slower_than_eleven_here_and_better_than_the_published_code() -> None:
    """The documented number, our default, selects less in 30 generations."""
    fixed = means()[0]
    assert means(strict_official=True)[0] + 30 < fixed < means(num_parents=11)[0] - 20


def test_the_published_code_logs_the_first_score_of_an_unsorted_list() -> None:
    for strict, expected in ((True, 0), (False, None)):
        toy, found = run(7, strict_official=strict, generations=1)
        scores = toy.score(np.stack(toy.asked))
        assert scores.argmax() != 0
        assert found.fitness == (scores.max() if expected is None else scores[expected])


def test_parents_of_the_published_code_are_the_best_eleven() -> None:
    """Documented are fifteen."""

    def worst_parent(strict: bool) -> int:
        populations: list[np.ndarray] = []

        def fitness(population: np.ndarray) -> np.ndarray:
            populations.append(population.copy())
            return population[:, 0].astype(float)

        options = EvolutionOptions(
            generations=2, mutation_probability=0.0, strict_official=strict, num_crossovers=10
        )
        evolve(fitness, 1200, 1000, options, np.random.default_rng(0))
        ranked = populations[0][np.argsort(-populations[0][:, 0], kind="stable")]
        ends = [np.flatnonzero(ranked[:, -1] == child[-1]).max() for child in populations[1]]
        return int(max(ends))

    assert worst_parent(strict=True) <= 10 < worst_parent(strict=False) <= 14


def test_a_mutated_gene_of_the_published_code_is_never_1() -> None:
    genes = 200

    def fitness(population: np.ndarray) -> np.ndarray:
        seen.append(population.copy())
        return np.random.default_rng(len(seen)).random(len(population))

    for strict, expected in ((True, False), (False, True)):
        seen: list[np.ndarray] = []
        options = EvolutionOptions(
            generations=12, mutation_probability=1.0, num_crossovers=1, strict_official=strict
        )
        evolve(fitness, genes, 4, options, np.random.default_rng(0))
        assert bool((np.concatenate(seen[3:]) == 1).any()) == expected


def test_most_children_of_the_published_code_are_copies_where_genes_are_few() -> None:
    def share(strict: bool) -> float:
        populations: list[np.ndarray] = []

        def fitness(population: np.ndarray) -> np.ndarray:
            populations.append(population.copy())
            return np.random.default_rng(len(populations)).random(len(population))

        options = EvolutionOptions(
            generations=20, mutation_probability=0.0, num_mutations=1, num_crossovers=30,
            num_parents=31, strict_official=strict,
        )  # fmt: skip
        evolve(fitness, 6, DIM, options, np.random.default_rng(0))
        first = {g.tobytes() for g in populations[0]}
        return len([g for g in populations[1] if g.tobytes() not in first]) / len(populations[0])

    assert share(strict=True) < 0.15 < 0.5 < share(strict=False)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), share=st.floats(0.05, 1.0))
def test_only_candidates_that_fit_are_judged(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    costs = np.cumsum(rng.integers(1, 100, (6, 8)), axis=1)
    limit = 50 + int(costs[:, 0].sum() + share * (costs[:, -1] - costs[:, 0]).sum())
    costs[:, 1:] = rng.permuted(costs[:, 1:], axis=1)  # packed rows: bytes need not rise
    budget, toy = Budget(costs, limit, rest=50), Toy(seed, 6, 8)
    found = evolve(toy, 6, 8, EvolutionOptions(generations=4), rng, budget)
    assert all(budget.fits(g) for g in toy.asked)
    assert all(g.min() >= 1 and g.max() <= 8 for g in toy.asked)
    assert budget.fits(found.best)


def test_a_budget_below_the_smallest_widths_names_their_bytes() -> None:
    budget = Budget(np.full((3, 4), 1000), 2_500, rest=70)
    with pytest.raises(
        ValueError, match=r"the smallest widths take 3,070 bytes, of which 70 .* budget is 2,500"
    ):
        evolve(Toy(0, 3, 4), 3, 4, EvolutionOptions(), np.random.default_rng(0), budget)


def test_the_published_code_takes_no_budget() -> None:
    budget = Budget(np.ones((3, 4), dtype=np.int64), 100)
    options = EvolutionOptions(strict_official=True)
    with pytest.raises(ValueError, match="knows no budget; leave the budget or strict_official"):
        evolve(Toy(0, 3, 4), 3, 4, options, np.random.default_rng(0), budget)


@pytest.mark.parametrize("strict", [False, True])
def test_a_fitness_that_is_no_number_is_refused(strict: bool) -> None:
    options = EvolutionOptions(strict_official=strict)
    with pytest.raises(ValueError, match=r"one finite number for each of 20 .* and 0 finite"):
        evolve(lambda g: np.full(len(g), np.nan), 9, 64, options, np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"each of 20 candidates, got shape \(2,\)"):
        evolve(lambda g: np.zeros(2), 9, 64, options, np.random.default_rng(0))
