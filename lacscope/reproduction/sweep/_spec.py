"""What a sweep computes: conditions and settings, frozen, with an id that is a hash of all that changes the answer."""

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass, field
from typing import Any, Literal

from lacscope.guards._arguments import did_you_mean, whole_number
from lacscope.traces._lac import check_alpha, check_alphas
from lacscope.traces._options import check_sampling

CONTROLS_OF = {
    "readout": ("permuted_exits", "constant_exit", "norm_null"),
    "bypass": ("random_layers", "random_tokens", "lowest_usage", "last_layers", "norm_null"),
}
RANDOM_CONTROLS = ("permuted_exits", "random_layers", "random_tokens")
PROTECTABLE = ("random_layers", "random_tokens")

ConditionEffect = Literal["none", "observe", "readout", "bypass"]
Scoring = Literal["choice", "generated"]


@dataclass(frozen=True)
class Condition:
    """What is done to the model while it answers.

    Args:
        effect: ``"none"`` is the model without any hook of ours; else the effect of the rule's voids.
        rule: ``"full"`` (with ``"none"``), ``"lac"``, or one of the controls in :data:`CONTROLS_OF`.
        alpha: the alpha of L2 Adaptive Computation; for a control, of the run that it is matched to.
        seed: the seed of a random control; -1 elsewhere.
        protect: the first and the last layer are never voids (bypass controls).
        layers: the void layers of a control that fixes them; for ``"constant_exit"``, those past the exit.
    """

    effect: ConditionEffect
    rule: str
    alpha: float | None = None
    seed: int = -1
    protect: bool = False
    layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        known = {"none": ("full",), "observe": ("lac",), **{e: ("lac", *c) for e, c in CONTROLS_OF.items()}}
        if self.effect not in known:
            raise ValueError(
                f"unknown effect {self.effect!r}; choose one of {', '.join(known)}.{did_you_mean(self.effect, known)}"
            )
        if self.rule not in known[self.effect]:
            raise ValueError(
                f"rule {self.rule!r} cannot go with effect {self.effect!r}; it takes {', '.join(known[self.effect])}."
            )
        if self.alpha is not None:
            check_alpha(self.alpha)
        if (self.alpha is None) != (self.rule == "full"):
            raise ValueError(f"alpha={self.alpha!r} with rule {self.rule!r}: every rule but 'full' has an alpha.")
        if (self.seed >= 0) != (self.rule in RANDOM_CONTROLS):
            raise ValueError(f"seed={self.seed} with rule {self.rule!r}: a seed goes with a random control alone.")

    @property
    def label(self) -> dict[str, Any]:
        """The columns of a scores table that name this condition."""
        return {
            "effect": self.effect,
            "rule": self.rule,
            "alpha": math.nan if self.alpha is None else float(self.alpha),
            "seed": self.seed,
            "protect": self.protect,
        }


FULL = Condition("none", "full")


@dataclass(frozen=True)
class SweepSpec:
    """All that decides what a sweep's numbers are, and how its work is cut.

    The batches a sample is read in are a function of this (never of how many processes share the work), so
    equal specifications give equal results; :attr:`id` is a hash over it. ``model``, ``style``, ``shots``,
    ``data_seed``, ``keep_text``, ``quantization`` and ``chat_template_kwargs`` describe and are not hashed: the weights
    and the token ids are.

    Args:
        model: label of the model.
        weights: sha256 of the parameters (:func:`lacscope.models.weights_digest`).
        dtype, device: the number format and the device that the model computes in and on.
        task, style: name of the benchmark and of the prompt's style.
        shots: solved examples before each question.
        data_seed: the seed that chose the samples, and shuffled options where a task shuffles them.
        inputs: sha256 of every prompt and choice as token ids, with the right answers.
        samples: the data set's row numbers, in the order of the questions.
        scoring: ``"choice"`` (log-probability) or ``"generated"``.
        conditions: the list of what is measured for each sample.
        batch_size: rows of a forward pass.
        shard_size: questions of a shard, the unit that is written, and redone when cut.
        max_new_tokens, temperature, top_p, seed: the options of generation.
        phase_alphas: alphas whose usage is also counted by token class, position and surprisal.
        keep_text: whether generated texts are kept; of a private task they never are.
        quantization: the format that the weights are quantised to (:func:`lacscope.models.quantization`); "" where they
            are not.
        chat_template_kwargs: options of the chat template, as JSON; "" for none.
        versions: the versions of the packages that can change a number.
    """

    model: str = field(metadata={"hashed": False})
    weights: str
    dtype: str
    device: str
    task: str
    style: str = field(metadata={"hashed": False})
    inputs: str
    samples: tuple[int, ...]
    scoring: Scoring
    conditions: tuple[Condition, ...]
    batch_size: int = 8
    shard_size: int = 32
    max_new_tokens: int = 0
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    phase_alphas: tuple[float, ...] = ()
    shots: int = field(default=0, metadata={"hashed": False})
    data_seed: int = field(default=0, metadata={"hashed": False})
    keep_text: bool = field(default=True, metadata={"hashed": False})
    quantization: str = field(default="", metadata={"hashed": False})
    chat_template_kwargs: str = field(default="", metadata={"hashed": False})
    versions: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if not self.samples:
            raise ValueError("a sweep needs at least one sample, got none.")
        if len(set(self.samples)) != len(self.samples):
            raise ValueError("a sweep's samples must differ from one another.")
        if FULL not in self.conditions:
            raise ValueError("a sweep needs the full model, its baseline: add FULL to the conditions.")
        if len(set(self.conditions)) != len(self.conditions):
            raise ValueError("a sweep's conditions must differ from one another.")
        for name, least in (("batch_size", 1), ("shard_size", 1), ("max_new_tokens", 0), ("seed", 0), ("shots", 0)):
            whole_number(name, getattr(self, name), least=least)
        check_sampling(self.temperature, self.top_p)
        check_alphas("phase_alphas", self.phase_alphas)
        if (self.scoring == "generated") != (self.max_new_tokens > 0):
            raise ValueError(
                f"scoring {self.scoring!r} with max_new_tokens={self.max_new_tokens}: it goes with generation alone."
            )

        if self.phase_alphas and self.scoring != "generated":
            raise ValueError("phase_alphas compare prompts with answers: they go with scoring='generated'.")
        drawn = [c for c in self.conditions if c.rule in RANDOM_CONTROLS]
        if drawn and self.scoring == "generated":
            raise ValueError(
                f"{drawn[0].rule!r} draws its masks over tokens known beforehand: it goes with scoring='choice'."
            )

    @property
    def id(self) -> str:
        """Hash of all that changes the answer: 16 hexadecimal digits."""
        hashed = {f.name for f in dataclasses.fields(self) if f.metadata.get("hashed", True)}
        plain = {name: value for name, value in dataclasses.asdict(self).items() if name in hashed}
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def n_shards(self) -> int:
        return math.ceil(len(self.samples) / self.shard_size)

    def shard(self, index: int) -> range:
        """Positions, within ``samples``, of one shard's questions."""
        return range(index * self.shard_size, min((index + 1) * self.shard_size, len(self.samples)))

    def to_json(self) -> str:
        return json.dumps({"id": self.id, **dataclasses.asdict(self)}, indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "SweepSpec":
        """Read back what :meth:`to_json` wrote. Raises ValueError where the text is not its id's."""
        given = json.loads(text)
        written = given.pop("id")
        conditions = tuple(Condition(**{**one, "layers": tuple(one["layers"])}) for one in given.pop("conditions"))
        spec = cls(
            **{
                **given,
                "samples": tuple(given["samples"]),
                "phase_alphas": tuple(given["phase_alphas"]),
                "versions": tuple((name, version) for name, version in given["versions"]),
            },
            conditions=conditions,
        )
        if spec.id != written:
            raise ValueError(
                f"the specification says id {written}, its content has id {spec.id}: it was edited, or written by a "
                "lacscope that described its runs otherwise."
            )
        return spec
