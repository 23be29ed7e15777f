"""Does a norm of the stream tell the right answer? How often the right candidate comes first by each signal.

The signals are those of :mod:`lacscope.trace_analyses`; the length of the response is a signal too, as the control:
sums over a response grow with it.
"""

import json
from collections.abc import Sequence
from typing import Literal

import numpy as np
import xarray as xr
from jaxtyping import Bool

from lacscope.guards._arguments import listed, made_by
from lacscope.trace_analyses._bootstrap import bootstrap_ratios, check_bootstrap
from lacscope.trace_analyses._tell_tale import SIGNALS, late_layers, rank_candidates
from lacscope.traces._measure import Measure

LENGTH = "length"


def share_right(
    signals: xr.Dataset,
    right: Sequence[bool] | Bool[np.ndarray, " sample"],
    questions: Sequence[object],
    *,
    seed: int,
    layers: Literal["late", "all"] | Sequence[int] = "late",
    n_bootstrap: int = 2000,
    level: float = 0.95,
) -> xr.Dataset:
    """Share of the questions whose right candidate has the largest signal of its question's candidates.

    Args:
        signals: the result of :func:`~lacscope.trace_analyses.norm_signals`, one sample a candidate.
        right: whether each sample is the right answer to its question.
        questions: the question that each sample answers.
        seed: the seed of the bootstrap over questions, >= 0.
        layers: the layers summed over, as in :func:`~lacscope.trace_analyses.rank_candidates`.
        n_bootstrap: resamples.
        level: the level of the intervals, in (0, 1).

    Returns:
        Dataset over ``signal``, the four and ``"length"`` (the number of decode tokens): ``share`` in [0, 1] with its
        interval ``low`` .. ``high`` (NaN for one question). Of k candidates that are first together each counts 1/k.
        ``chance``: the mean over questions of 1 / candidates. Attribute ``n_questions``.

    Drawn by :func:`lacscope.plots.plot_share_right`.

    Raises:
        ValueError: another number of values than samples, or a question without exactly one right candidate and one
            wrong one or more.

    >>> from lacscope.trace_analyses._tell_tale import norm_signals, norm_thresholds
    >>> from lacscope.testing import synthetic_trace
    >>> trace = synthetic_trace(n_samples=4)
    >>> signals = norm_signals(trace, norm_thresholds(trace))
    >>> found = share_right(signals, [True, False, False, True], [0, 0, 1, 1], seed=0)
    >>> found["chance"].item(), found["signal"].values[-1].item()
    (0.5, 'length')
    """
    check_bootstrap(seed, n_bootstrap, level)
    made_by("signals", signals, xr.Dataset, "norm_signals(trace, thresholds)")
    target = np.asarray(right, dtype=bool)
    asked = np.asarray([str(name) for name in listed("questions", questions, "names")])
    n = signals.sizes["sample"]
    if target.shape != (n,) or asked.shape != (n,):
        raise ValueError(f"right and questions must have {n} values, one a sample; got {target.size} and {asked.size}.")
    members = [np.flatnonzero(asked == name) for name in dict.fromkeys(asked.tolist())]
    for own in members:
        if target[own].sum() != 1 or len(own) < 2:
            raise ValueError(
                f"question {str(asked[own[0]])!r} has {int(target[own].sum())} right of {len(own)} candidates: give "
                "one right and at least one wrong."
            )
    ranks: dict[str, np.ndarray] = {
        name: rank_candidates(signals, name, layers=layers, questions=asked.tolist())["rank"].values for name in SIGNALS
    }
    ranks[LENGTH] = -signals["n_decode"].values.astype(float)
    credit = np.array(
        [[target[own[rank[own] == rank[own].min()]].mean() for rank in ranks.values()] for own in members]
    )
    low, high = bootstrap_ratios(credit, np.ones(len(members)), seed=seed, n=n_bootstrap, confidence=level)
    said = {"units": "1", "long_name": "share of the questions whose right answer comes first"}
    found = xr.Dataset(
        {
            "share": ("signal", credit.mean(0), said),
            "low": ("signal", low, said),
            "high": ("signal", high, said),
            "chance": ((), np.mean([1 / len(own) for own in members]), {"units": "1"}),
        },
        {"signal": list(ranks)},
    )
    chosen = {"layers": layers if isinstance(layers, str) else list(layers), "seed": seed, "level": level}
    settings = json.loads(signals.attrs.get("settings", "{}")) | chosen
    held = signals["layer"].values.tolist()
    own_layers = {"late": late_layers(len(held)), "all": held}[layers] if isinstance(layers, str) else layers
    found.attrs = {
        **signals.attrs,
        "measure": "share_right",
        "settings": json.dumps(settings, sort_keys=True),
        "aggregation": (
            f"summed over layers {', '.join(map(str, own_layers))}; share of {len(members)} questions, {n} candidates "
            f"in all; {100 * level:g} % intervals over questions"
        ),
        "n_samples": len(members),
        "n_questions": len(members),
    }
    return found


SHARE_RIGHT = Measure(
    share_right,
    "tell-tale norms",
    "how often the right choice has the largest norms",
    plot="plot_share_right",
    needs="results",
    group="tokens",
    command="tell-tale",
)
