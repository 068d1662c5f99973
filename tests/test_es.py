"""CMA-ES."""

from __future__ import annotations

import numpy as np
import pytest
from cma.sigma_adaptation import CMAAdaptSigmaCSA

from controller.es import ES
from env.run.errors import UserError
from env.run.files import load_arrays, save_arrays


def fitness(candidates):
    return -((candidates - 0.3) ** 2).sum(axis=1)


def evolve(es, generations):
    history = []
    for _ in range(generations):
        candidates = es.ask()
        history.append(fitness(candidates).max())
        es.tell(candidates, fitness(candidates))
    return history


def test_step_size_control_is_csa_at_the_controllers_size():
    es = ES(867, 64, 0.1, 0.01, seed=1)
    assert isinstance(es._es.adapt_sigma, CMAAdaptSigmaCSA)
    assert es.sigma == 0.1
    np.testing.assert_array_equal(es.mean, np.zeros(867))


def test_it_begins_where_it_is_told_to():
    start = np.linspace(-1, 1, 5)
    es = ES(5, 8, 0.01, 0.0, seed=1, start=start)
    np.testing.assert_array_equal(es.mean, start)
    assert np.abs(es.ask() - start).max() < 0.1


def test_it_maximises():
    es = ES(5, 16, 0.1, 0.0, seed=1)
    evolve(es, 60)
    np.testing.assert_allclose(es.mean, 0.3, atol=0.01)


def test_candidates_depend_on_the_seed_and_fitness_alone():
    first, second, other = (ES(5, 8, 0.1, 0.0, seed) for seed in (1, 1, 2))
    history = evolve(first, 3)
    np.random.seed(0)  # noqa: NPY002 - somebody else's draws
    np.random.standard_normal(100)  # noqa: NPY002
    assert evolve(second, 3) == history
    assert evolve(other, 3) != history


@pytest.mark.parametrize("size, population, generations, every", [(5, 8, 40, 1), (7, 4, 40, 1), (40, 8, 40, 3), (867, 64, 8, 3)])
def test_a_saved_state_goes_on_as_if_nothing_happened(tmp_path, size, population, generations, every):
    """To the bit, from any generation: between two decompositions of C, too, of which there is one in so many generations."""
    whole = ES(size, population, 0.1, 0.01, seed=1)
    states, history = [], []
    for generation in range(generations):
        save_arrays(tmp_path / f"{generation}.npz", whole.arrays())
        states.append(load_arrays(tmp_path / f"{generation}.npz")[0])
        history += evolve(whole, 1)
    for generation in range(0, generations, every):
        back = ES(size, population, 0.1, 0.01, seed=2)
        back.restore(states[generation])
        assert evolve(back, generations - generation) == history[generation:]
        np.testing.assert_array_equal(back.mean, whole.mean)
        assert back.sigma == whole.sigma


def test_the_state_of_another_strategy_is_refused():
    state = ES(5, 8, 0.1, 0.01, seed=1).arrays()
    with pytest.raises(UserError, match="of another size"):
        ES(6, 8, 0.1, 0.01, seed=1).restore(state)
    for name in ("sigma", "sm.B", "random.key"):
        with pytest.raises(UserError, match="another version"):
            ES(5, 8, 0.1, 0.01, seed=1).restore({key: value for key, value in state.items() if key != name})


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_fitness_that_is_no_number_is_refused(bad):
    es = ES(5, 8, 0.1, 0.0, seed=1)
    candidates = es.ask()
    values = fitness(candidates)
    values[3] = bad
    with pytest.raises(FloatingPointError, match="candidate 3"):
        es.tell(candidates, values)


def test_large_weights_cost_fitness():
    """With flat fitness only the decay, l2 * mean(w^2), is left to order the candidates: the smallest is the best, and the mean stays
    near zero. (The original's sign is the other one: tests/README.md, Deviations.)"""
    es, told = ES(5, 8, 0.1, 0.5, seed=1), {}
    candidates = es.ask()
    es._es.tell = lambda xs, costs: told.update(costs=np.array(costs))
    es.tell(candidates, np.full(8, 7.0))
    sizes = np.mean(candidates**2, axis=1)
    assert np.argmin(told["costs"]) == np.argmin(sizes) and np.argmax(told["costs"]) == np.argmax(sizes)
    assert told["costs"].max() - told["costs"].min() == pytest.approx(0.5 * (sizes.max() - sizes.min()))
    shrinks = ES(5, 8, 0.1, 0.5, seed=1)
    for _ in range(80):
        candidates = shrinks.ask()
        shrinks.tell(candidates, np.full(8, 7.0))
    assert np.abs(shrinks.mean).max() < 0.02
