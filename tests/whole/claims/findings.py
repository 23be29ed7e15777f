"""What the pages of results and README.md may say in numbers: each fragment as the committed files have it."""

from collections.abc import Iterator

import numpy as np
import xarray as xr
from committed import (
    ALPHAS,
    NAMES,
    QWEN,
    SMOL,
    TASKS,
    ablation,
    fisher,
    full,
    lac,
    matched,
    medians,
    nats,
    notes,
    only,
    points,
    rank,
    result,
    rho,
    rows,
    scores,
    table,
)

MEASURES = {
    "void usage at alpha 0.8": "usage 0.8",
    "Block Influence": "Block Influence",
    "LIM": "LIM",
    "relative contribution": "relative contribution",
    "SLEB's order of removal": "SLEB order",
    "growth of the stream's variance": "variance growth",
    "ZD, from the weights alone": "ZD",
}
EFFECTS = {"readout": "`readout` (what the published code does)", "bypass": "`bypass` (what the paper describes)"}
CONTROL_ALPHA = {SMOL: 0.1, QWEN: 0.8}
MATCHINGS = ("raw", "class", "surprisal", "class + surprisal", "sample + class + surprisal")


def share(value: float) -> str:
    return f"{100 * value:.0f}"


def answers() -> Iterator[str]:
    """Right answers by alpha, and the comparisons fixed beforehand."""
    for task in ("lambada", "arc_easy"):
        for model in NAMES:
            for effect, words in EFFECTS.items():
                shares = [share(full(model, task)["accuracy"])]
                shares += [share(lac(model, task, effect, a)["accuracy"]) for a in ALPHAS]
                n = int(lac(model, task, effect, 0.8)["n"])
                yield f"| {TASKS[task]}, {NAMES[model]}, {words} | {n} | {' | '.join(shares)} |"
    found = rows("comparisons", rule="lac", effect="readout", alpha=0.8, against="full", protect=False)
    assert found["primary"].all()
    testable = found[found["testable"]]
    for _, row in found.iterrows():
        verdict = f"p = {row['p']:.2g}" if row["testable"] else "not testable"
        low, high = 100 * row["difference_low"], 100 * row["difference_high"]
        said = "by construction" if row["identical"] else f"{100 * row['difference']:+.0f} [{low:+.0f}, {high:+.0f}]"
        against = f"{row['only_condition']} against {row['only_against']}"
        yield f"| {NAMES[row['model']]}, {TASKS[row['task']]} | {row['n']} | {said} | {against} | {verdict} |"
    yield f"Of the {len(found)} comparisons fixed beforehand {len(testable)} are testable"
    sure = testable[testable["p"] * len(found) < 0.05]
    corrected = [f"{len(found) * p:.1g}" for p in sorted(sure["p"])]
    assert set(sure["model"]) == {SMOL}
    yield f"times {len(found)} the two p of SmolLM2 are {corrected[0]} and {corrected[1]}"
    missed = testable[testable["model"] == QWEN]["detectable"]
    assert f"{100 * missed.min():.0f}" == f"{100 * missed.max():.0f}"
    yield f"a difference under {100 * missed.max():.0f} points would likely be missed"


def readme_answers() -> Iterator[str]:
    for model, words in ((SMOL, "100 questions each"), (QWEN, "50 each")):
        for task in ("arc_easy", "lambada"):
            row = only("comparisons", model=model, task=task, rule="lac", effect="readout", alpha=0.8, against="full")
            assert row["n"] == int(words.split()[0])
            low, high = 100 * row["difference_low"], 100 * row["difference_high"]
            yield f"{100 * row['difference']:.0f} points on {TASKS[task]} [{low:+.0f}, {high:+.0f}]"
        yield words


def distances() -> Iterator[str]:
    """KL to the full model."""
    for alphas, words in (((0.5, 0.8, 1.0), "from alpha 0.5 on"), ((0.0,), "at alpha 0")):
        low, high = min(medians("bypass", *alphas)), max(medians("bypass", *alphas))
        yield f"{words} the median KL of `bypass` is {low:.1f} to {high:.1f} nats"
        if alphas == (0.0,):
            assert max(medians("readout", *alphas)) == 0
            yield "and of `readout` 0"
        else:
            yield f"and of `readout` {min(medians('readout', *alphas)):.0f} to {max(medians('readout', *alphas)):.1f}"
    boolq = {effect: lac(SMOL, "boolq", effect, 0.8) for effect in EFFECTS}
    assert boolq["readout"]["kl"] == 0
    yield (
        f"Over {boolq['bypass']['n']} questions of BoolQ the median KL to SmolLM2's next token is 0 nats for `readout` "
        "at alpha 0.8"
    )
    yield f"and {boolq['bypass']['kl']:.1f} nats for `bypass`"


def usages() -> Iterator[str]:
    """Usage and exit depth at alpha 0.8 under readout."""
    found = [lac(m, t, "readout", 0.8) for m in NAMES for t in TASKS]
    both = {phase: [r for r in found if not np.isnan(r[f"usage_{phase}"])] for phase in ("prefill", "decode")}
    used = [r[f"usage_{phase}"] for phase, kept in both.items() for r in kept]
    depth = [r[f"exit_{phase}"] for phase, kept in both.items() for r in kept]
    yield f"At alpha 0.8 usage is {share(min(used))} to {share(max(used))} %"
    yield f"the last active layer sits at {share(min(depth))} to {share(max(depth))} % of the depth"


def notes_in_words() -> Iterator[str]:
    """Of the published code, measured on four sets of questions."""
    sets = notes().values()
    flips = [one["bf16"][a]["published"]["flipped"] for one in sets for a in ("0.0", "0.1", "0.5", "0.8")]
    exits = [one["bf16"][a]["published"]["exit_moved"] for one in sets for a in ("0.0", "0.1", "0.5", "0.8")]
    zeros = [one["bf16"]["zero_deltas"]["published"] for one in sets]
    yield f"{100 * min(flips):.1f} to {100 * max(flips):.1f} % of the mask flips"
    yield f"{100 * min(exits):.1f} to {100 * max(exits):.1f} % of tokens exit elsewhere"
    yield f"{100 * min(zeros):.1f} to {100 * max(zeros):.1f} % of the deltas become exactly 0"
    early = [one["usage"]["0.0"]["early_of_scored"] for one in sets]
    yield f"{100 * min(early):.0f} to {100 * max(early):.0f} % of answer positions exit early"


def controls() -> Iterator[str]:
    """What the controls spend, and how far LAC's bypass is from the full model beside them."""
    for model, alpha in CONTROL_ALPHA.items():
        for task in TASKS:
            of = {"model": model, "task": task, "effect": "bypass", "alpha": alpha, "protect": False}
            own = _same_questions(model, task, alpha)
            cells = [f"{own['lac']:.1f}"]
            cells += [f"{own[rule]:.1f}" for rule in ("random_tokens", "random_layers", "lowest_usage", "norm_null")]
            null = only("summary", rule="norm_null", **of)
            spent = [share(own["usage"]), share(null["usage_prefill"])]
            yield f"| {NAMES[model]}, {TASKS[task]}, {alpha:g} | {null['n']} | {' | '.join(cells + spent)} |"


def _same_questions(model: str, task: str, alpha: float) -> dict[str, float]:
    """Median KL and usage by rule over the questions that the controls were asked."""
    found = scores()
    found = found[(found["model"] == model) & (found["task"] == task) & (found["scoring"] == "choice")]
    found = found[(found["effect"] == "bypass") & (found["alpha"] == alpha) & ~found["protect"]]
    asked = set(found.loc[found["rule"] == "norm_null", "sample"])
    found = found[found["sample"].isin(asked)]
    medians_of = found.groupby("rule")["kl_to_full"].median().to_dict()
    lacs = found[found["rule"] == "lac"]
    active = sum(sum(one) for one in lacs["active_prefill"])
    layers = len(lacs["active_prefill"].iloc[0])
    return medians_of | {"usage": active / (layers * lacs["n_prefill"].sum())}


def phases() -> Iterator[str]:
    """Usage in decode less prefill, raw and matched, of every case with generated answers."""
    for model, task in ((SMOL, "boolq"), (SMOL, "mmlu"), (SMOL, "lambada"), (QWEN, "boolq"), (QWEN, "mmlu")):
        found = table("phases")
        found = found[(found["model"] == model) & (found["task"] == task) & (found["of"] == "usage")]
        found = found[found["alpha"] == 0.8].set_index("matched_on")
        tokens = f"{found.loc['raw', 'n_samples']} | {found.loc['raw', 'n_decode']}"
        cells = [points(found.loc[name]) for name in ("raw", "position + class + surprisal")]
        yield f"| {NAMES[model]}, {TASKS[task]} | {tokens} | {' | '.join(cells)} |"


def readout_by_class() -> Iterator[str]:
    """KL of the readout at the answer's tokens less the prompt's, matched in several ways."""
    for matching in MATCHINGS:
        cells = [nats(matched(model, "kl_readout", matching)) for model in NAMES]
        yield f"| {'nothing' if matching == 'raw' else matching} | {' | '.join(cells)} |"
    for model in NAMES:
        yield f"{matched(model, 'kl_readout', 'raw')['n_samples']} questions on {NAMES[model]}"


def predictions() -> Iterator[str]:
    """Does void usage predict what hurts when removed?"""
    for words, metric in MEASURES.items():
        cells = [f"{rho(model, metric):.2f} ({rho(model, metric, subset=1):.2f})" for model in NAMES]
        yield f"| {words} | {' | '.join(cells)} |"
    usage = [rho(model, "usage 0.8") for model in NAMES]
    yield f"correlate over layers at {usage[0]:.2f} on SmolLM2 and {usage[1]:.2f} on Qwen2.5-Coder"
    growth = [rho(model, "usage 0.8", "variance growth") for model in NAMES]
    yield f"usage goes with the growth of the variance ({growth[0]:.2f} and {growth[1]:.2f})"
    for subset, words in ((0, "all layers"), (1, "the inner layers")):
        z, p = fisher(subset)
        yield f"{words} z = {z:.2f}, p = {p:.2f}"
    for model in NAMES:
        found = result(model, "agreement")
        passages = int(found["n_samples"].sel(metric="usage 0.8"))
        cut = found.attrs["data"].split("first ")[1].split(" ")[0]
        yield f"{passages} passages of {cut} tokens on {NAMES[model]}"


def layer_11() -> Iterator[str]:
    """Of SmolLM2's layer 11, whose few active tokens are the sink's."""
    usage = float(result(SMOL, "agreement")["score"].sel(metric="usage 0.8")[11])
    yield f"Layer 11 of SmolLM2 is active for {100 * usage:.0f} % of the tokens"
    groups = result(SMOL, "token-usage")
    groups = groups.isel(group=groups["kind"].values == "position of the token")
    by_group = dict(zip(groups["group"].values, groups["usage_by_layer"].values[:, 11], strict=True))
    assert by_group.pop("position 0") == 1
    assert set(by_group.values()) == {0.0}
    yield "active at every position 0 and at no other token of 10 questions"
    assert int(groups["n_samples"].max()) == 10
    whole, first, rest = (ablation(name) for name in ("ablation", "ablation-first", "ablation-rest"))
    yield f"bypassing it costs {whole[11]:.2f} nats of KL, the {_ordinal(rank(whole, 11))} most of {len(whole)} layers"
    yield f"at position 0 alone {first[11]:.2f}"
    yield f"everywhere else {rest[11]:.2f}, rank {rank(rest, 11)}"


def _ordinal(place: int) -> str:
    return {1: "first", 2: "second", 3: "third", 4: "fourth"}[place]


def depths() -> Iterator[str]:
    """How deep the models work, by the measures that there are."""
    scores = {model: result(model, "depth-score") for model in NAMES}
    for model, found in scores.items():
        for measure in found["measure"].values:
            cells = []
            for group in ("1 hop", "2 hops"):
                one = found.sel(group=group, measure=measure)
                cells.append(f"{one['score']:.1f} [{one['low']:.1f}, {one['high']:.1f}], n = {one['n_samples']:d}")
            yield f"| {NAMES[model]}, {measure} | {' | '.join(cells)} |"
    for model in NAMES:
        found = result(model, "effective-depth")
        layers = " | ".join(f"{float(found['layer'].sel(criterion=c)):.0f}" for c in ("cosine", "kl", "overlap"))
        form = "as the authors put it" if "csordas" in str(found.attrs["settings"]) else "in the chat template"
        yield f"| {NAMES[model]}, {form} | {found.attrs['n_samples']} | {layers} |"


def painters() -> Iterator[str]:
    """Layers run otherwise: what is left of the score."""
    for model, start in ((SMOL, 12), (QWEN, 9)):
        found = result(model, "painters").sel(start=start)
        for kind in ("skip", "reverse", "random"):
            one = found.sel(kind=kind)
            by_task = xr.DataArray(one["normalised"])
            cells = [f"{float(by_task.sel(task=task)):.2f}" for task in ("gsm8k", "lambada", "arc_easy")]
            yield f"| {NAMES[model]}, {kind} | {start} | {int(one['n'].min())} | {' | '.join(cells)} |"


ALL = (
    answers, readme_answers, distances, usages, notes_in_words, controls, phases, readout_by_class, predictions,
    layer_11, depths, painters,
)  # fmt: skip
