"""Whether a score differs from another: Welch's t-test against a published one, Student's for pairs, and the difference's interval."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

LEVEL = 0.95
PAPER_EPISODES = 100


class Difference(NamedTuple):
    """Ours minus theirs: the mean's, its interval at LEVEL, and the probability of one as large, or larger, if there were none."""

    mean: float
    low: float
    high: float
    p: float


def difference(returns: np.ndarray, mean: float, std: float, episodes: int = PAPER_EPISODES) -> Difference:
    """Welch's t-test of our returns against a published mean and (population) standard deviation over so many episodes.

    Args:
        returns: float [n], n > 1.
    """
    count = len(returns)
    ours, theirs = float(np.var(returns, ddof=1)) / count, std**2 / (episodes - 1)  # squared standard errors of the two means
    apart = float(np.mean(returns)) - mean
    error = (ours + theirs) ** 0.5
    if not error:
        return Difference(apart, apart, apart, float(not apart))
    student = _student((ours + theirs) ** 2 / (ours**2 / (count - 1) + theirs**2 / (episodes - 1)))
    half = error * float(student.quantile((1 + LEVEL) / 2))
    return Difference(apart, apart - half, apart + half, 2 * float(student.cdf(-abs(apart) / error)))


def paired(returns: np.ndarray, others: np.ndarray) -> Difference:
    """Student's test for pairs: our returns, float [n], minus others on the same episodes, n > 1."""
    apart = np.asarray(returns, float) - np.asarray(others, float)
    mean, error = float(apart.mean()), float(np.std(apart, ddof=1)) / len(apart) ** 0.5
    if not error:
        return Difference(mean, mean, mean, float(not mean))
    student = _student(len(apart) - 1.0)
    half = error * float(student.quantile((1 + LEVEL) / 2))
    return Difference(mean, mean - half, mean + half, 2 * float(student.cdf(-abs(mean) / error)))


def _student(freedom: float):  # -> tfp.distributions.StudentT
    import tensorflow as tf
    import tensorflow_probability as tfp

    one = tf.constant(1.0, tf.float64)
    return tfp.distributions.StudentT(tf.constant(freedom, tf.float64), 0 * one, one)


def verdict(found: Difference, mean: float, margin: float) -> str:
    """"above" or "below" where the difference is significant; else "reproduced" if the interval of the difference keeps within `margin`, a
    part of the published mean, and "undecided" if it is too wide to say so."""
    if found.p < 1 - LEVEL:
        return "above" if found.mean > 0 else "below"
    within = max(-found.low, found.high) <= margin * abs(mean)
    return "reproduced" if within else "undecided"
