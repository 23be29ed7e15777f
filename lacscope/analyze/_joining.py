"""Parts of one analysis, joined as if all prompts had been given at once."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from lacscope.traces._provenance import with_samples
from lacscope.traces._spread import has_spread, with_spread, without_spread


def join_samples(parts: Sequence[xr.Dataset]) -> xr.Dataset:
    """Parts of one analysis as if all prompts had been given at once.

    What is by sample is laid end to end; a variable whose attribute ``aggregation`` is "max over samples" is the
    largest of the parts', one that is "mean over samples" their mean by number of samples.

    Raises:
        ValueError: a variable that is neither, or parts that are not by sample.

    >>> from lacscope.traces._provenance import result_attrs
    >>> attrs = result_attrs("effect", {}, preset=None, settings={}, positions="all", aggregation="none", n_samples=2)
    >>> part = xr.Dataset({"a": ("sample", [1.0, 2.0])}, {"sample": [0, 1]}, attrs)
    >>> join_samples([part, part])["sample"].values.tolist()
    [0, 1, 2, 3]
    """
    if "sample" not in parts[0].dims:
        raise ValueError(
            f"a result over {', '.join(map(str, parts[0].dims)) or 'nothing'} cannot be joined prompt by prompt: a "
            "measure whose parts are 'each' returns a dimension sample; give its record parts='all' if it reads all at "
            "once."
        )
    numbers = np.array([part.sizes["sample"] for part in parts])
    spread = has_spread(parts[0])
    parts = [without_spread(part) for part in parts]
    by_sample = [part.drop_vars([name for name in part.data_vars if "sample" not in part[name].dims]) for part in parts]
    joined = xr.concat(by_sample, dim="sample", join="outer", combine_attrs="override", data_vars="minimal")
    joined = joined.assign_coords(sample=np.arange(numbers.sum()))
    for name in parts[0].data_vars:
        if "sample" in parts[0][name].dims:
            continue
        how = parts[0][name].attrs.get("aggregation")
        values = xr.concat([part[name] for part in parts], dim="part")
        if how == "max over samples":
            joined[name] = values.max("part", skipna=False)
        elif how == "mean over samples":
            joined[name] = values.weighted(xr.DataArray(numbers, dims="part")).mean("part", skipna=False)
        else:
            raise ValueError(f"variable {name!r} has no dimension sample and no aggregation to join it by.")
        joined[name].attrs = parts[0][name].attrs
    joined.attrs = with_samples(parts[0].attrs, int(numbers.sum()))
    return with_spread(joined) if spread else joined
