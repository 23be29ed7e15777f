"""What a trace can be asked for, whatever the model: checked before one is loaded. No torch."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

from lacscope.guards._arguments import did_you_mean, is_real, listed, one_of, whole_number
from lacscope.traces._schema import EXTRA_MEASURES

Effect = Literal["observe", "readout", "bypass"]
EFFECTS: tuple[Effect, ...] = get_args(Effect)
"""What is done with voids; :mod:`lacscope.rules` says what each means."""
Logits = Literal["none", "last", "all"]
Tokenwise = Literal["all", "response"]
DTYPES = ("float32", "bfloat16", "float16", "float64")
"""Number formats that a model can be loaded in, by name."""


def check_options(
    *,
    effect: str = "observe",
    logits: str = "none",
    tokenwise: str = "all",
    measures: Sequence[str] = (),
    batch_size: int = 1,
    max_new_tokens: int = 0,
    responses: Any = None,
    temperature: float = 0.0,
    top_p: float = 1.0,
) -> None:
    """Raise ValueError, in words, for an option of :func:`lacscope.trace` that no model could serve."""
    one_of("effect", effect, EFFECTS)
    if logits not in get_args(Logits):
        raise ValueError(f"logits must be 'none', 'last' or 'all', got {logits!r}.")
    if tokenwise not in get_args(Tokenwise):
        raise ValueError(f"tokenwise must be 'all' or 'response' (the tokens measured), got {tokenwise!r}.")
    if isinstance(measures, str):
        raise ValueError(f"measures must be a list of names, got the string {measures!r}; write [{measures!r}].")
    unknown = sorted(str(name) for name in listed("measures", measures, "names") if name not in EXTRA_MEASURES)
    if unknown:
        raise ValueError(
            f"unknown measure {unknown[0]!r}; choose from {', '.join(EXTRA_MEASURES)}."
            f"{did_you_mean(unknown[0], EXTRA_MEASURES)}"
        )
    whole_number("batch_size", batch_size, least=1)
    whole_number("max_new_tokens", max_new_tokens)
    if responses is not None and max_new_tokens:
        raise ValueError("responses= gives the answers, max_new_tokens= generates them: pass one of the two.")
    check_sampling(temperature, top_p)


def check_sampling(temperature: Any, top_p: Any) -> None:
    """Raise ValueError for what cannot be sampled with."""
    if not is_real(temperature) or temperature < 0:
        raise ValueError(f"temperature must be a finite number >= 0 (0 is greedy), got {temperature!r}.")
    if not is_real(top_p) or not 0 < top_p <= 1:
        raise ValueError(f"top_p must be in (0, 1] (1 keeps every token), got {top_p!r}.")
