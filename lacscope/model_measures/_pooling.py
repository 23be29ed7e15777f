"""Means of samples as one mean over the tokens of all of them."""

import xarray as xr

from lacscope.traces._spread import POOLED, without_spread


def pool_tokens(found: xr.Dataset) -> xr.Dataset:
    """The mean over all tokens of all samples, where ``found`` has each sample's own mean.

    Longer prompts weigh more, as in the published code of Csordás et al. (contributions and cosines) and of
    Hu et al. (effective depth); ``found.mean("sample")`` lets all prompts weigh the same.

    Args:
        found: the result of :func:`~lacscope.model_measures.relative_contributions`,
            :func:`~lacscope.model_measures.residual_cosines` or :func:`~lacscope.model_measures.logit_lens`: token
            means over (sample, ...), with ``n_tokens`` (sample).

    Returns:
        The same variables without ``sample``; the attribute ``aggregation`` is "pooled over tokens". A sample
        without any token takes no part.

    Raises:
        ValueError: a Dataset without ``n_tokens``.

    >>> found = xr.Dataset({"kl": ("sample", [1.0, 4.0])}, {"n_tokens": ("sample", [2, 1])})
    >>> pool_tokens(found)["kl"].item()
    2.0
    """
    if "n_tokens" not in found.coords:
        raise ValueError("the result has no coordinate n_tokens (sample), the tokens of each mean, to pool it by.")
    pooled = without_spread(found).weighted(found["n_tokens"]).mean("sample", keep_attrs=True)
    return pooled.assign_attrs({**found.attrs, "aggregation": POOLED})
