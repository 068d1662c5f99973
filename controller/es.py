"""CMA-ES behind ask, tell, mean, save and load. pycma does the work (paper A.4; original carracing/es.py, CMAES).

pycma minimises; the sign flip and the weight decay are made here and nowhere else. `stop()` is never asked: the number of
generations decides, and pycma would stop on the flat fitness of a first generation.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import cma
import numpy as np
from cma.sigma_adaptation import CMAAdaptSigmaCSA

from env.run.errors import UserError
from env.run.files import write_atomic


class ES:
    """CMA-ES that maximises fitness - l2 * mean(w^2), from x0 = 0.

    Args:
        size: number of parameters.
        population: candidates in a generation.
        sigma: initial step size.
        l2: weight decay.
        seed: decides all candidates, together with the fitness values told.
    """

    def __init__(self, size: int, population: int, sigma: float, l2: float, seed: int) -> None:
        self.l2 = l2
        options = {
            "popsize": population,
            # From 300 parameters on, cma >= 4.5 would choose two-point adaptation (TPA); the original's is CSA.
            "AdaptSigma": CMAAdaptSigmaCSA,
            # A generator of its own, saved with the rest: nothing else that draws numbers can change the candidates.
            "randn": np.random.RandomState(seed).randn,
            "seed": float("nan"),
            "verbose": -9,
        }
        self._es = cma.CMAEvolutionStrategy(np.zeros(size), sigma, options)

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

    def save(self, path: Path, generation: int) -> None:
        """Keep the whole state, atomically. It is pycma's own pickle, for resuming one's own run; weights that are handed
        on are never pickles."""
        write_atomic(path, lambda file: pickle.dump((generation, self), file))

    @staticmethod
    def load(path: Path) -> tuple[int, ES]:
        """(generation, state) from `save`.

        Raises:
            UserError: the file is damaged.
        """
        try:
            with open(path, "rb") as file:
                generation, es = pickle.load(file)
        except (pickle.UnpicklingError, EOFError, AttributeError, ImportError, ValueError, TypeError) as error:
            raise UserError(f"{path} is damaged ({error}): delete {path.parent} to evolve anew") from None
        return generation, es
