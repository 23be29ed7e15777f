"""A mask known beforehand, replayed."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool
from torch import Tensor

from lacscope.guards._arguments import ANY, whole_number
from lacscope.rules._base import Decides, Grain, check_unit
from lacscope.rules._scope import EVERYWHERE, Scope, check_scope
from lacscope.rules._view import LayerView, Unit
from lacscope.traces._masks import ACTIVE, flags_of
from lacscope.traces._normalised import label_values
from lacscope.traces._schema import require_distinct_samples


@dataclass(frozen=True, eq=False, repr=False)
class GivenVoids:
    """Voids known beforehand, each sample's own: a mask that is replayed, permuted or drawn.

    A row's mask is looked up by its sample id (see :class:`LayerView`), a token's by its position in the
    sample. Under a plan that runs the blocks in another order the mask's layers are the runs in their order, as in a
    trace made under it. Two are equal where their masks, units and scopes are.

    Args:
        masks: bool array [layer, token], True at voids, for each sample id; copied.
        unit: the part of each block that is void.
        scope: the tokens and layers where they hold.

    Raises:
        ValueError: masks that are no bool arrays [layer, token]; when used, a sample that has no mask, a
            token beyond the end of its mask, or a model of another depth.

    >>> rule = GivenVoids({7: np.array([[False, True], [True, False]])})
    >>> rule.masks[7].sum()
    np.int64(2)
    >>> rule == GivenVoids({7: np.eye(2)[::-1] == 1})
    True
    """

    masks: Mapping[int, Bool[np.ndarray, "layer token"]]
    unit: Unit = "block"
    scope: Scope = field(default=EVERYWHERE, kw_only=True)
    sha256: str = field(init=False)
    decides: ClassVar[Decides] = "before"
    grain: ClassVar[Grain] = "token"
    needs: ClassVar[frozenset[str]] = frozenset({"sample", "position"})

    def __post_init__(self) -> None:
        check_unit(self.unit)
        check_scope(self.scope)
        if not isinstance(self.masks, Mapping):
            raise ValueError(
                f"masks must be a dict, a bool array [layer, token] for each sample id; got {self.masks!r:.80}. "
                "A labelled mask is taken by GivenVoids.of."
            )
        kept = {
            whole_number("a sample id in masks", sample, least=ANY): _frozen_mask(sample, mask)
            for sample, mask in self.masks.items()
        }
        if len({len(mask) for mask in kept.values()}) != 1:
            raise ValueError(
                "masks must be one bool array [layer, token] for each sample id, all with the same layers; got "
                f"{sorted({len(mask) for mask in kept.values()}) or 'no mask'}."
            )
        digest = hashlib.sha256(self.unit.encode())
        for sample in sorted(kept):
            digest.update(json.dumps([sample, kept[sample].shape]).encode())
            digest.update(np.packbits(kept[sample]).tobytes())
        object.__setattr__(self, "masks", MappingProxyType(kept))
        object.__setattr__(self, "sha256", digest.hexdigest())

    @classmethod
    def of(
        cls,
        masks: xr.DataArray | Mapping[int, Bool[np.ndarray, "layer token"]],
        unit: Unit = "block",
        *,
        scope: Scope = EVERYWHERE,
    ) -> "GivenVoids":
        """The rule of a mask with dimensions (sample, layer, token), such as a trace's ``void``, or of a mapping.

        Where the mask has the coordinate ``valid`` each sample's ends with its last valid token. A mask of one sample,
        selected as ``isel(sample=0)``, is that sample's.

        >>> GivenVoids.of(xr.DataArray(np.zeros((2, 3, 4), bool), dims=("sample", "layer", "token"))).masks[1].shape
        (3, 4)
        """
        if not isinstance(masks, xr.DataArray):
            return cls(masks, unit, scope=scope)
        if "sample" not in masks.dims and "sample" in masks.coords:
            masks = masks.expand_dims("sample")
        if set(masks.dims) != {"sample", "layer", "token"}:
            raise ValueError(
                f"the mask has dimensions {masks.dims}, not sample, layer and token. Take one rule or alpha of "
                "several with .isel(rule=0)."
            )
        if masks.name == ACTIVE:
            raise ValueError("this mask is 1 where a layer is active: give the voids themselves, not ~voids.")
        require_distinct_samples(masks)
        given = masks.transpose("sample", "layer", "token")
        void, known = flags_of(given).values, given.notnull().all("layer")
        if "valid" in given.coords:
            known = known & label_values(given["valid"].values, False)
        lengths = known.transpose("sample", "token").values.sum(axis=1)
        ids = given["sample"].values.tolist()
        return cls({i: void[row][:, : lengths[row]] for row, i in enumerate(ids)}, unit, scope=scope)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GivenVoids) and (self.sha256, self.scope) == (other.sha256, other.scope)

    def __hash__(self) -> int:
        return hash((self.sha256, self.scope))

    def __repr__(self) -> str:
        return f"GivenVoids({len(self.masks)} samples, sha256={self.sha256[:12]}, unit={self.unit!r})"

    def describe(self) -> dict[str, Any]:
        """What a trace keeps of the rule: not the masks."""
        return {"sha256": self.sha256, "samples": len(self.masks), "unit": self.unit}

    def voids(
        self, view: LayerView, pass_state: dict[str, Any], run_state: dict[str, Any]
    ) -> Bool[Tensor, "batch pos"]:
        if "void" not in pass_state:
            pass_state["void"] = self._of_pass(view)
        return pass_state["void"][view.place].to(view.device)

    def _of_pass(self, view: LayerView) -> Bool[Tensor, "layer batch pos"]:
        """The masks of all tokens of a pass; False on padding, which has no position."""
        assert view.sample is not None
        assert view.position is not None
        positions = view.position.cpu().numpy()
        assert view.n_places is not None
        void = np.zeros((view.n_places, *positions.shape), dtype=bool)
        for row, sample in enumerate(view.sample.tolist()):
            mask = self._of_sample(sample, view.n_places)
            real = positions[row] >= 0
            last = int(positions[row].max())
            if last >= mask.shape[1]:
                raise ValueError(
                    f"sample {sample} has a mask of {mask.shape[1]} tokens, and its token {last} is now read "
                    "(tokens count from 0). Give a mask for all that is read, or generate less."
                )
            void[:, row, real] = mask[:, positions[row, real]]
        return torch.from_numpy(void).to(view.device)

    def _of_sample(self, sample: int, n_layers: int) -> Bool[np.ndarray, "layer token"]:
        mask = self.masks.get(sample)
        if mask is None:
            known = ", ".join(str(known) for known in sorted(self.masks)[:8])
            raise ValueError(
                f"no mask was given for sample {sample}; there are masks for {len(self.masks)} samples: {known}"
                f"{', ...' if len(self.masks) > 8 else ''}. The ids are trace's sample_ids, or the rows in halting."
            )
        if len(mask) != n_layers:
            raise ValueError(f"the masks have {len(mask)} layers, and {n_layers} are run, or skipped, in this pass.")
        return mask


def _frozen_mask(sample: Any, mask: Any) -> Bool[np.ndarray, "layer token"]:
    found = np.array(mask)
    if found.dtype != bool or found.ndim != 2:
        raise ValueError(
            f"the mask of sample {sample} must be a bool array [layer, token], got {found.dtype} {found.shape}."
        )
    found.flags.writeable = False
    return found
