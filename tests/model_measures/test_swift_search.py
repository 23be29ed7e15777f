"""The search for a set: mostly at random, now and then by a Gaussian process."""

import numpy as np

from lacscope.model_measures._swift_search import posterior, search_set


def test_the_process_finds_a_set_that_drawing_would_not() -> None:
    """A score that adds up over items: 8 of 24, of 735,471 sets, in 60 trials."""
    weights = np.random.default_rng(0).random(24)
    best = np.sort(weights)[-8:].sum()

    def score(chosen: np.ndarray) -> float:
        return float(weights[chosen].sum() / best)

    options = {"trials": 60, "patience": 60, "target": 2.0}
    asked = search_set(score, 24, 8, **options, bayes_every=2, seed=3)
    drawn = search_set(score, 24, 8, **options, bayes_every=61, seed=3)
    assert asked.score > 0.97 > drawn.score
    assert asked.chosen.sum() == 8
    assert asked.trials == 60


def test_a_search_ends_by_target_patience_and_trials() -> None:
    options = {"bayes_every": 4, "seed": 0}
    assert search_set(lambda s: 0.5, 6, 2, trials=50, patience=5, target=0.9, **options).trials == 7
    assert search_set(lambda s: 0.5, 6, 2, trials=3, patience=5, target=0.9, **options).trials == 3
    assert search_set(lambda s: 0.95, 6, 2, trials=50, patience=5, target=0.9, **options).trials == 1


def test_the_posterior_is_sure_where_it_was_tried_and_doubts_elsewhere() -> None:
    tried = np.eye(6, dtype=bool)
    scores = np.array([0.0, 1.0, 0.0, 1.0, 0.0, 1.0])
    mean, deviation = posterior(tried, scores, np.concatenate([tried, ~tried]))
    assert (np.sign(mean[:6]) == [-1, 1, -1, 1, -1, 1]).all()
    assert deviation[:6].max() < 0.2
    assert deviation[6:].min() > 2 * deviation[:6].max()
