"""CMA-ES behind ask, tell, mean, save and load. pycma does the work (paper A.4; original carracing/es.py, CMAES).

pycma minimises; the sign flip and the weight decay are made here and nowhere else. `stop()` is never asked: the number of
generations decides, and pycma would stop on the flat fitness of a first generation.
"""

from __future__ import annotations

from typing import Any

import cma
import numpy as np
from cma.sigma_adaptation import CMAAdaptSigmaCSA
from cma.utilities.utils import ElapsedWCTime

from env.run.errors import UserError

# All of pycma's state (of the version that requirements.txt pins) that decides what comes after: attributes of its strategy, and of the
# objects in it. Everything else follows from the settings, is made anew in each generation, or is for pycma's own stopping and printing.
ARRAYS = ("mean", "pc", "pc2", "dC", "sm.C", "sm.B", "sm.D", "adapt_sigma.ps")
NUMBERS = (
    "sigma",
    "_sigma_old",
    "countiter",
    "countevals",
    "itereigenupdated",
    "_isotropic_mean_shift_iteration",
    "adapt_sigma.delta",
    "adapt_sigma._last_multiplier",
    "adapt_sigma._ps_updated_iteration",
    "sm.last_update",
    "sm.count_tell",
    "sm.count_eigen",
    "fit.median_previous",
    "fit.median_got_worse",
)
# What some of these start as until there is a number.
NONE = np.array([])


class ES:
    """CMA-ES that maximises fitness - l2 * mean(w^2).

    Args:
        size: number of parameters.
        population: candidates in a generation.
        sigma: initial step size.
        l2: weight decay.
        seed: decides all candidates, together with the fitness values told.
        start: the distribution's first mean, float [size]; without it 0, as the paper has it.
    """

    def __init__(self, size: int, population: int, sigma: float, l2: float, seed: int, start: np.ndarray | None = None) -> None:
        self.l2 = l2
        # A generator of its own, saved with the rest: nothing else that draws numbers can change the candidates.
        self._random = np.random.RandomState(seed)
        options = {
            "popsize": population,
            # From 300 parameters on, cma >= 4.5 would choose two-point adaptation (TPA); the original's is CSA.
            "AdaptSigma": CMAAdaptSigmaCSA,
            "randn": self._random.randn,
            "seed": float("nan"),
            "verbose": -9,
        }
        self._es = cma.CMAEvolutionStrategy(np.zeros(size) if start is None else np.array(start, np.float64), sigma, options)

    def ask(self) -> np.ndarray:
        """The candidates of the next generation, float64 [population, size]."""
        return np.array(self._es.ask())

    def tell(self, candidates: np.ndarray, fitness: np.ndarray) -> None:
        """Learn from the candidates' fitness [population], higher is better.

        Raises:
            FloatingPointError: a fitness is not finite; pycma would take it silently.
        """
        if not np.isfinite(fitness).all():
            bad = int(np.flatnonzero(~np.isfinite(fitness))[0])
            raise FloatingPointError(f"the fitness of candidate {bad} is {fitness[bad]}: nothing was learned from this generation")
        decayed = fitness - self.l2 * np.mean(candidates**2, axis=1)
        self._es.tell(list(candidates), list(-decayed))

    @property
    def mean(self) -> np.ndarray:
        """The distribution's mean (pycma's xfavorite), float64 [size]: the solution that is scored and kept."""
        return np.array(self._es.result.xfavorite)

    @property
    def sigma(self) -> float:
        """The present step size."""
        return float(self._es.sigma)

    def arrays(self) -> dict[str, np.ndarray]:
        """The whole state, as plain arrays: what is read back can run no code, as a pickle's could."""
        values = {name: _at(self._es, name) for name in (*ARRAYS, *NUMBERS)}
        _, key, place, has_gauss, gauss = self._random.get_state()
        state = {name: NONE if value is None else np.asarray(value) for name, value in values.items()}
        # Mirror images of the worst candidates, which populations of less than six try next.
        state["injected"] = np.array(self._es.pop_injection_directions, np.float64).reshape(-1, self._es.N)
        return state | {"random.key": np.asarray(key), "random.rest": np.array([place, has_gauss, gauss], np.float64)}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Go on from what `arrays` gave, in a strategy of the same size, population and so on.

        Raises:
            UserError: the arrays are those of another strategy.
        """
        own = self.arrays()
        if {name: array.shape for name, array in arrays.items() if name in (*ARRAYS, "random.key")} != {
            name: own[name].shape for name in (*ARRAYS, "random.key")
        } or arrays.keys() != own.keys():
            raise UserError("the state of CMA-ES is one of another size, or of another version of the program: start a new run")
        for name in (*ARRAYS, *NUMBERS):
            value = arrays[name]
            # "K": the order of an array in memory decides how BLAS rounds.
            _set(self._es, name, value.copy("K") if name in ARRAYS else None if not value.size else value.item())
        self._es.D, self._es.mean_old = self._es.sm.D, self._es.mean
        self._es.pop_injection_directions = list(arrays["injected"].copy())
        self._es._indices_of_selective_mirrors = range(len(arrays["injected"]))
        self._es.timer = ElapsedWCTime()  # pycma makes it before its first generation
        place, has_gauss, gauss = arrays["random.rest"].tolist()
        self._random.set_state(("MT19937", arrays["random.key"], int(place), int(has_gauss), gauss))


def _at(strategy: Any, name: str) -> Any:
    for part in name.split("."):
        strategy = getattr(strategy, part, None)
    return strategy


def _set(strategy: Any, name: str, value: Any) -> None:
    *inner, last = name.split(".")
    for part in inner:
        strategy = getattr(strategy, part)
    setattr(strategy, last, value)
