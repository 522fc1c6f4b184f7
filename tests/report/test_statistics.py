import numpy as np
import pytest
import scipy.stats

from ridgeline.report.statistics import bootstrap_interval, interquartile, interquartile_mean


@pytest.mark.parametrize("count", range(1, 22))
def test_iqm_is_scipys_trimmed_mean(count):
    values = np.random.default_rng(count).normal(size=(count, 7))
    expected = scipy.stats.trim_mean(values, 0.25, axis=0)
    np.testing.assert_allclose(interquartile_mean(values), expected, rtol=1e-12)


def test_iqm_by_hand():
    assert interquartile_mean([100.0, 1, 2, 3, 4, 5, 6, -100]) == 3.5
    assert interquartile_mean([7.0]) == 7
    assert interquartile_mean([[1.0, 5.0], [3.0, 7.0]]).tolist() == [2.0, 6.0]


def test_iqm_ignores_missing_seeds_point_by_point():
    nan = np.nan
    values = np.array([[1.0, nan, nan], [2, 8, nan], [9, nan, nan], [4, 2, nan]])
    np.testing.assert_array_equal(interquartile_mean(values), [3, 5, nan])


def test_iqm_of_huge_values_does_not_overflow():
    np.testing.assert_allclose(interquartile_mean(np.full(10, 1.7e308)), 1.7e308)


def test_weights_sum_to_one():
    for count in range(1, 50):
        assert interquartile(count).sum() == pytest.approx(1)


def test_interval_of_one_seed_is_the_point():
    values = np.random.default_rng(0).normal(size=(1, 5))
    low, high = bootstrap_interval(values)
    np.testing.assert_array_equal(low, values[0])
    np.testing.assert_array_equal(high, values[0])


def test_interval_is_scipys_bootstrap_of_the_mean():
    values = np.random.default_rng(3).exponential(size=30)
    low, high = bootstrap_interval(values, lambda n: np.full(n, 1 / n), level=0.9, resamples=20_000)
    oracle = scipy.stats.bootstrap(
        (values,), np.mean, confidence_level=0.9, n_resamples=20_000, method="percentile", rng=1
    ).confidence_interval
    np.testing.assert_allclose([low, high], [oracle.low, oracle.high], rtol=0.02)


def test_interval_of_two_seeds_by_hand():
    # The mean of a resample is 0, 1/2 or 1 with probabilities 1/4, 1/2, 1/4.
    low, high = bootstrap_interval([0.0, 1.0], level=0.4)
    assert (low, high) == (0.5, 0.5)
    low, high = bootstrap_interval([0.0, 1.0], level=0.9)
    assert (low, high) == (0.0, 1.0)


def test_interval_covers_the_truth_about_as_often_as_it_says():
    values = np.random.default_rng(5).normal(size=(20, 2000))
    low, high = bootstrap_interval(values)
    assert 0.88 < np.mean((low <= 0) & (high >= 0)) < 0.97


def test_interval_with_missing_values_is_that_of_the_rest():
    values = np.random.default_rng(2).normal(size=(6, 3))
    holes = np.insert(values, 2, np.nan, axis=0)
    np.testing.assert_array_equal(bootstrap_interval(holes), bootstrap_interval(values))
    assert np.all(np.isnan(bootstrap_interval(np.full((3, 2), np.nan))))


def test_interval_is_reproducible_and_its_seed_matters():
    values = np.random.default_rng(2).normal(size=(10, 4))
    np.testing.assert_array_equal(bootstrap_interval(values), bootstrap_interval(values))
    assert not np.array_equal(bootstrap_interval(values), bootstrap_interval(values, seed=1))
