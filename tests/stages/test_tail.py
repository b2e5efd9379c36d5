from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy import stats

from anomalib_tiled.stages.tail import Tail

SHAPES = pytest.mark.parametrize("shape", [-0.4, 0.0, 0.3])
LAWS = {
    "exponential": stats.expon(),
    "normal": stats.norm(),
    "uniform": stats.uniform(),
    "heavy": stats.t(3),
    "skewed": stats.gumbel_r(),
}


def sample(law: object, size: int, seed: int = 0) -> np.ndarray:
    return np.sort(law.rvs(size, random_state=np.random.default_rng(seed)))


@SHAPES
@pytest.mark.parametrize("rate", [0.1, 0.01, 0.001])
def test_thresholds_are_the_quantiles_of_scipy(shape: float, rate: float) -> None:
    law = stats.genpareto(shape, loc=5, scale=2)
    tail = Tail(5.0, 1.0, shape, 2.0)
    assert law.sf(tail.threshold(rate)) == pytest.approx(rate)


@SHAPES
def test_parameters_of_a_generalized_pareto_distribution_are_found(shape: float) -> None:
    """Its excesses over any level are distributed like that too, with a scale that grows by shape × level."""
    tail = Tail.fit(sample(stats.genpareto(shape, scale=2), 20000), 0.5)
    assert tail.shape == pytest.approx(shape, abs=0.05)
    assert tail.scale == pytest.approx(2 + shape * tail.level, rel=0.05)
    assert tail.rate == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
@pytest.mark.parametrize("rate", [0.05, 0.01, 0.001])
def test_the_rate_is_held_whatever_the_distribution(law: object, rate: float) -> None:
    reached = law.sf(Tail.fit(sample(law, 10000), 0.1).threshold(rate))
    # The standard deviation of a plain quantile; the fit has a bias of its own besides.
    assert reached == pytest.approx(rate, rel=0.2, abs=4 * (rate / 10000) ** 0.5)


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_few_scores_do_not_miss_a_rate_they_cannot_show_widely(law: object) -> None:
    rates = [law.sf(Tail.fit(sample(law, 30, seed), 0.2).threshold(0.01)) for seed in range(30)]
    assert np.mean(rates) < 0.03


@pytest.mark.parametrize(("factor", "offset"), [(1e-6, 0), (1e6, 0), (1, -1000)])
def test_units_do_not_matter(factor: float, offset: float) -> None:
    scores = sample(stats.norm(), 200)
    expected = Tail.fit(scores, 0.2).threshold(0.001) * factor + offset
    assert Tail.fit(scores * factor + offset, 0.2).threshold(0.001) == pytest.approx(expected)


def test_a_lower_rate_has_a_higher_threshold() -> None:
    tail = Tail.fit(sample(stats.norm(), 50), 0.2)
    thresholds = [tail.threshold(rate) for rate in (0.5, 0.2, 0.1, 0.01, 1e-4)]
    assert thresholds == sorted(thresholds)
    assert thresholds[0] == tail.level, "above its own rate the tail says nothing"


@pytest.mark.parametrize("size", [1, 3, 10, 19])
def test_too_few_scores_have_no_tail(size: int) -> None:
    assert Tail.fit(sample(stats.norm(), size), 0.2) is None


@pytest.mark.parametrize(
    "scores",
    [np.full(100, 2.0), np.repeat([1.0, 2.0, 3.0], 40), np.append(np.zeros(95), np.arange(5.0))],
    ids=["equal", "tied", "few different"],
)
def test_tied_scores_have_no_tail(scores: np.ndarray) -> None:
    assert Tail.fit(scores, 0.2) is None


def test_a_fit_that_fails_is_no_tail(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        message = "Optimization converged to parameters that are outside the range"
        raise stats.FitError(message)

    monkeypatch.setattr(stats.genpareto, "fit", fail)
    assert Tail.fit(sample(stats.norm(), 100), 0.2) is None


def test_what_the_search_tries_warns_of_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def search(excesses: np.ndarray, **_: object) -> tuple[float, float, float]:
        np.log(-excesses)  # as of a scale that is not allowed
        return 0.0, 0.0, 1.0

    monkeypatch.setattr(stats.genpareto, "fit", search)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Tail.fit(sample(stats.norm(), 100), 0.2) is not None
