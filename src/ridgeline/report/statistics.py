"""What several seeds say together: the interquartile mean and its bootstrap interval.

Both are weighted means of order statistics, Σᵢ wᵢ x₍ᵢ₎, and are computed as such: a resample of n seeds is n
ranks, so the statistic of every resample at every point is one matrix product. As the weights sum to 1, values
near the end of the float range do not overflow.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

type Floats = NDArray[np.float64]
type Values = NDArray[Any] | Sequence[Any]
type Statistic = Callable[[int], Floats]


def interquartile(count: int) -> Floats:
    """wᵢ = 1/(n − 2k) for k ≤ i < n − k, else 0; k = ⌊n/4⌋. The weights [n] of n sorted values.

    Whole values are cut, none is split: `scipy.stats.trim_mean(x, 0.25)`, which is what rliable calls the IQM
    (Agarwal et al. 2021). With fewer than four values nothing is cut.
    """
    cut = count // 4
    weights = np.zeros(count)
    weights[cut : count - cut] = 1 / (count - 2 * cut)
    return weights


def interquartile_mean(values: Values) -> Floats:
    """The mean of the middle half over the first axis: [S, ...] → [...].

    NaN means that a seed has no value at that point, and is left out there; a point without any value is NaN.
    """
    result, groups = _by_count(values)
    for count, points, ordered in groups:
        result.flat[points] = interquartile(count) @ ordered
    return result


def bootstrap_interval(
    values: Values,
    statistic: Statistic = interquartile,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[Floats, Floats]:
    """The percentile bootstrap interval of a statistic over seeds: values [S, ...] → (low [...], high [...]).

    Each point is a stratum: its seeds are drawn with replacement among those that have a value there (NaN: no
    value). Intervals hold point by point, not for a curve as a whole. One seed says nothing about its spread: the
    interval is then the point itself. The generator is seeded, so that a report can be reproduced (Efron 1979).
    """
    low, groups = _by_count(values)
    high = low.copy()
    tails = [(1 - level) / 2, (1 + level) / 2]
    for count, points, ordered in groups:
        ranks = np.sort(np.random.default_rng(seed).integers(count, size=(resamples, count)), axis=1)
        weights = np.zeros((resamples, count))
        np.add.at(weights, (np.arange(resamples)[:, None], ranks), statistic(count))
        low.flat[points], high.flat[points] = np.quantile(weights @ ordered, tails, axis=0)
    return low, high


def _by_count(values: Values) -> tuple[Floats, Iterator[tuple[int, NDArray[np.intp], Floats]]]:
    """A result [...] full of NaN, and for every n > 0: the points with n values, and those sorted [n, points]."""
    array = np.asarray(values, dtype=np.float64)
    ordered = np.sort(array.reshape(len(array), math.prod(array.shape[1:])), axis=0)  # NaN goes last
    counts = np.sum(~np.isnan(ordered), axis=0)
    groups = ((int(n), np.flatnonzero(counts == n), ordered[:n, counts == n]) for n in np.unique(counts) if n)
    return np.full(array.shape[1:], np.nan), groups
