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
# # Compose with your hooks
#
# Everything that lacscope does to a model is a TransformerLens hook, so it stands beside your own: activation patching,
# a steering vector, head ablation, a logit lens and a linear probe, each while voids are skipped or traced. Two rules are
# enough to know what you get:
#
# - Hooks fire in the order in which they were registered. Ours measure the stream that yours, registered before, have
#   left. A hook of yours that is registered after ours at the same point can change, or undo, our edit.
# - What stands in a stream in the end is what the next block's `hook_resid_pre` shows.
#
# The model is SmolLM2-135M-Instruct; the examples are small and **show the method, not a result**.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch

import lacscope
from lacscope import plots

torch.set_grad_enabled(False)
model = lacscope.load_model("smollm2-135m-instruct")  # hooks="full": heads and sublayers too
n_layers = model.cfg.n_layers
gentle = lacscope.L2AdaptiveComputation(alpha=0.1)
rule = lacscope.L2AdaptiveComputation(alpha=0.8)
before = model("The capital of France is")

# %% [markdown]
# ## Activation patching, with and without the voids
#
# The usual experiment: two prompts of equal length that differ in one word. Run the corrupted one, put the clean one's
# stream in at one layer and one position, and see how much of the answer comes back. Our rule goes into the **same**
# `run_with_hooks` call. The patch is given first, so that the rule measures the patched stream.

# %%
clean, corrupted = "The capital of France is", "The capital of Italy is"
paris, rome = (model.to_tokens(word, prepend_bos=False)[0, 0].item() for word in (" Paris", " Rome"))
assert model.to_tokens(clean).shape == model.to_tokens(corrupted).shape


layers = range(0, n_layers, 3)


def is_stream(name):
    return name.endswith("hook_out") and name.count(".") == 2  # blocks.{l}.hook_out: the stream after each block


def preference(hooks, text=corrupted):
    logits = model.run_with_hooks(text, fwd_hooks=hooks)[0, -1]
    return float(logits[paris] - logits[rome])


def patched(skip):
    skipping = lacscope.halting_hooks(model, gentle, "bypass") if skip else []
    with model.hooks(fwd_hooks=skipping):
        _, cache = model.run_with_cache(clean, names_filter=is_stream)
    low, high = preference(skipping), preference(skipping, clean)
    table = np.zeros((len(layers), model.to_tokens(clean).shape[1]))
    for row, layer in enumerate(layers):
        source = cache[f"blocks.{layer}.hook_out"]
        for position in range(table.shape[1]):

            def patch(stream, hook, source=source, position=position):
                stream = stream.clone()
                stream[:, position] = source[:, position]
                return stream

            hooks = [(f"blocks.{layer}.hook_resid_post", patch), *skipping]
            table[row, position] = (preference(hooks) - low) / (high - low)
    return table


tables = {"all layers": patched(skip=False), "voids skipped (bypass, alpha 0.1)": patched(skip=True)}
with plots.style():
    figure, axes = plt.subplots(1, 2, figsize=(10, 5), sharey=True, layout="constrained")
    for ax, (name, table) in zip(axes, tables.items(), strict=True):
        image = ax.imshow(table, aspect="auto", origin="lower", cmap="RdBu_r", vmin=-1, vmax=1)
        ax.set_xticks(range(table.shape[1]), model.to_str_tokens(clean), rotation=45, ha="right")
        ax.set_title(name)
    axes[0].set_yticks(range(len(layers)), layers)
    axes[0].set_ylabel("layer patched")
    figure.colorbar(image, ax=axes, label="share of logit(Paris) - logit(Rome) restored")

# %% [markdown]
# The answer moves from the word to the last position between layers 21 and 24, with the voids skipped too. Where the
# right figure is white in the word's column, the layer is a void for that token: bypass puts the stream before the block
# back, your patch included. A patch at the next block's `hook_resid_pre` would stay.
#
# ## A steering vector, while voids are traced
#
# The difference of two means at layer 15, added at every position. `lacscope.trace` takes your hooks as `fwd_hooks`; they
# fire before ours, so the trace shows the steered stream.

# %%
happy = ["What a wonderful day, I love it", "This is the best news ever", "I am so glad and grateful"]
sad = ["What a terrible day, I hate it", "This is the worst news ever", "I am so sad and lonely"]
layer = 15
point = f"blocks.{layer}.hook_resid_post"


def streams_of(text):
    """The last token's stream after each block."""
    _, cache = model.run_with_cache(text, names_filter=is_stream)
    return torch.stack([cache[f"blocks.{layer}.hook_out"][0, -1] for layer in range(n_layers)])


def mean_stream(texts):
    return torch.stack([streams_of(text)[layer] for text in texts]).mean(0)


direction = mean_stream(happy) - mean_stream(sad)


def steer(stream, hook):
    return stream + direction


start = "When I opened the letter, I felt"
plain = lacscope.trace(model, start, max_new_tokens=16)
steered = lacscope.trace(model, start, max_new_tokens=16, fwd_hooks=[(point, steer)])
for name, trace in (("plain", plain), ("steered", steered)):
    print(f"{name:8}", "".join(trace["token_text"].values[0]))
void = {name: lacscope.voids(t, 0.8) for name, t in (("plain", plain), ("steered", steered))}
with plots.style():
    figure, axes = plt.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    for ax, (name, trace) in zip(axes, (("plain", plain), ("steered", steered)), strict=True):
        plots.plot_void_map(trace, void[name], ax=ax)
        ax.set_title(name, loc="right")

# %% [markdown]
# ## Ablate a head, and see which layers answer
#
# Zero one head's output (`attn.hook_z`) and compare each layer's change of norm, token by token. Layers after the head
# can answer; those before it cannot, which is a check of the whole set-up.

# %%
ablated_layer, head = 10, 2


def ablate(z, hook):
    z = z.clone()
    z[:, :, head] = 0
    return z


sentence = "The river rises in the mountains and runs for three hundred miles before it meets the sea."
whole = lacscope.trace(model, sentence)
without = lacscope.trace(model, sentence, fwd_hooks=[(f"blocks.{ablated_layer}.attn.hook_z", ablate)])
change = abs(without["delta_norm"] - whole["delta_norm"]).where(~whole["sink"]).median("token")[0]
flips = (lacscope.voids(without, 0.8) != lacscope.voids(whole, 0.8)).sum("token")[0]
with plots.style():
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    left.plot(change["layer"], change, marker="o", markersize=3)
    left.set(xlabel="layer", ylabel="change of delta_norm\n(median of tokens, sinks left out)")
    right.bar(flips["layer"], flips)
    right.set(xlabel="layer", ylabel=f"voids that flip (of {whole.sizes['token']} tokens)")
    for ax in (left, right):
        ax.axvline(ablated_layer, color="0.6", linestyle=":")
print("layers before the head that change:", int((change[:ablated_layer] > 0).sum()))

# %% [markdown]
# ## Logit lens, on the full model and with voids skipped
#
# `lacscope.halting` goes around anything that runs the model. `run_with_cache` inside it caches the streams after our
# edit, so the lens reads what the later layers really got. Under `bypass` a void layer's stream is the one before it.

# %%
question = [{"role": "user", "content": "What is the capital of France? Answer with one word."}]
tokens = torch.tensor([model.tokenizer.apply_chat_template(question, add_generation_prompt=True, return_dict=False)])


def lens():
    return torch.log_softmax(model.unembed(model.ln_final(streams_of(tokens).unsqueeze(0)))[0], dim=-1)


full = lens()
skipped = {}
for alpha in (0.1, 0.8):
    with lacscope.halting(model, lacscope.L2AdaptiveComputation(alpha), "bypass") as recorder:
        skipped[alpha] = lens()
    usage = float((~lacscope.recorded_voids(recorder.trace)).isel(token=-1).mean())
    print(f"alpha {alpha}: {usage:.0%} of the layers are active at the last token")
answer = full[-1].argmax()
with plots.style():
    figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
    ax.plot(full[:, answer], label="full model")
    ax.plot(skipped[0.1][:, answer], "--", label="voids skipped, alpha 0.1")
    ax.plot(skipped[0.8][:, answer], ":", label="voids skipped, alpha 0.8")
    ax.set(xlabel="layer", ylabel=f"log-probability of {model.to_string(answer)!r}, nats")
    ax.legend(frameon=False)

# %% [markdown]
# ## A linear probe on streams with voids in them
#
# Is the sentence about an animal or about a tool? Ridge regression on the last token's stream, at each layer, trained on
# half of the sentences and tested on the other half; once on the full model, once with the voids skipped.

# %%
animals = ["dog", "cat", "horse", "eagle", "salmon", "rabbit", "tiger", "mouse", "sheep", "snake"]
tools = ["hammer", "screwdriver", "saw", "drill", "wrench", "shovel", "axe", "ladder", "chisel", "knife"]
frames = [
    "Yesterday we looked at the {} for a while",
    "There was a small {} in the picture",
    "My friend has a {} at home",
]
texts = [frame.format(word) for frame in frames for word in (*animals, *tools)]
labels = np.array([1.0 if word in animals else -1.0 for _ in frames for word in (*animals, *tools)])
trained = np.array([index % len([*animals, *tools]) % 2 == 0 for index in range(len(texts))])  # other words in the test


def features():
    return np.stack([streams_of(text).numpy() for text in texts])


def probe_accuracy(streams, ridge=1.0):
    found = []
    for x in streams.transpose(1, 0, 2):
        x = (x - x[trained].mean(0)) / (x[trained].std(0) + 1e-6)
        inside = x[trained]
        weights = inside.T @ np.linalg.solve(inside @ inside.T + ridge * np.eye(len(inside)), labels[trained])
        found.append(float((np.sign(x[~trained] @ weights) == labels[~trained]).mean()))
    return found


accuracy = {"full model": probe_accuracy(features())}
with lacscope.halting(model, gentle, "bypass"):
    accuracy["voids skipped, alpha 0.1"] = probe_accuracy(features())
with lacscope.halting(model, rule, "bypass"):
    accuracy["voids skipped, alpha 0.8"] = probe_accuracy(features())
with plots.style():
    figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
    for (name, values), line in zip(accuracy.items(), ("-", "--", ":"), strict=True):
        ax.plot(values, line, label=name)
    ax.axhline(0.5, color="0.6", linewidth=0.8)
    ax.set(xlabel="layer", ylabel=f"accuracy on {int((~trained).sum())} held-out sentences", ylim=(0.3, 1.02))
    ax.legend(frameon=False)

# %% [markdown]
# ## And the model is as it was
#
# No hook is left, and its logits are the same, bit for bit.

# %%
print("identical:", torch.equal(model("The capital of France is"), before))
