"""SLEB against plain models with the blocks deleted, whole passes for every candidate of every round."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from deleted_layers import amplify, logits_of, mean_loss, plain, silence, without

from lacscope.model_measures._sleb import SLEB, removable, sleb
from lacscope.models.adapters import build_bridge
from lacscope.testing import tiny_model
from lacscope.tracing._inputs import InputError

pytestmark = pytest.mark.once

PROMPTS = [[5, 17, 3, 60, 8, 44, 9], [11, 4, 70, 2, 33], [1, 2, 3]]
# The second reads its streams the same way: with the slow tests.
ARCHITECTURES = ("llama", pytest.param("gpt_neox", marks=pytest.mark.slow))


def slow_loss(hf_model: Any, removed: list[int]) -> float:
    cut = without(hf_model, removed)
    sums = [mean_loss(logits_of(cut, prompt), prompt) * (len(prompt) - 1) for prompt in PROMPTS]
    return sum(sums) / sum(len(prompt) - 1 for prompt in PROMPTS)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("protect", [(0, -1), ()], ids=["authors'", "none protected"])
def test_equals_deleting_layers_one_by_one(architecture: str, protect: tuple[int, ...]) -> None:
    hf_model = plain(architecture, n_layers=5)
    found = sleb(tiny_model(architecture, n_layers=5), PROMPTS, protect=protect)
    candidates = [layer for layer in range(5) if layer not in [p % 5 for p in protect]]
    removed: list[int] = []
    assert found["perplexity"].values[0] == pytest.approx(math.exp(slow_loss(hf_model, [])), rel=1e-5)
    for step in range(1, found.sizes["step"]):
        losses = {layer: slow_loss(hf_model, [*removed, layer]) for layer in candidates if layer not in removed}
        for layer in range(5):
            tried = found["candidate_loss"].values[step, layer]
            assert tried == pytest.approx(losses.get(layer, math.nan), rel=1e-4, nan_ok=True)
        best = min(losses, key=lambda layer: losses[layer])
        assert found["removed"].values[step] == best
        assert found["perplexity"].values[step] == pytest.approx(math.exp(losses[best]), rel=1e-4)
        assert found["removed_at"].values[best] == step
        removed.append(best)
    assert len(removed) == (3 if protect else 4)
    assert np.isnan(found["removed_at"].values).sum() == 5 - len(removed)
    stays = [layer for layer in range(5) if layer not in removed]
    assert found["importance"].values[removed].tolist() == list(range(1, len(removed) + 1))
    assert (found["importance"].values[stays] == len(removed) + 1).all()


def test_the_samples_losses_pool_to_the_perplexity() -> None:
    found = sleb(tiny_model(), PROMPTS)
    n_tokens = [len(prompt) - 1 for prompt in PROMPTS]
    assert found["n_tokens"].values.tolist() == n_tokens
    pooled = np.average(found["loss"].values, axis=0, weights=n_tokens)
    np.testing.assert_allclose(np.exp(pooled), found["perplexity"].values)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_block_that_writes_nothing_goes_first(architecture: str) -> None:
    """In a model that was made to predict its prompt: a random one may be better off without any block."""
    hf_model = plain(architecture, n_layers=5)
    silence(hf_model, 2)
    prompt = torch.tensor([PROMPTS[0]])
    taught = [p for name, p in hf_model.named_parameters() if "layers.2." not in name]
    optimiser = torch.optim.Adam(taught, lr=3e-3)
    for _ in range(30):
        optimiser.zero_grad()
        hf_model(prompt, labels=prompt, use_cache=False).loss.backward()
        optimiser.step()
    model = build_bridge(hf_model.eval(), None, name="tiny", residual_only=True)
    found = sleb(model, [PROMPTS[0]])
    full, after = found["perplexity"].values[:2]
    assert found["removed"].values[1] == 2
    assert after == pytest.approx(full, rel=1e-5)
    assert found["candidate_loss"].values[1, 2] == pytest.approx(math.log(full), abs=1e-5)
    assert (found["candidate_loss"].values[1, [1, 3]] > math.log(full) + 0.01).all()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_block_that_dominates_goes_last(architecture: str) -> None:
    hf_model = plain(architecture, n_layers=5)
    amplify(hf_model, 1, 100.0)
    prompt = torch.tensor([logits_of(hf_model, PROMPTS[0]).argmax(-1).tolist()])
    for _ in range(20):  # a text that the model itself finds likely
        prompt = torch.cat(
            [prompt[:, :1], torch.tensor([logits_of(hf_model, prompt[0].tolist()).argmax(-1).tolist()])], 1
        )
        prompt = prompt[:, :7]
    model = build_bridge(hf_model, None, name="tiny", residual_only=True)
    found = sleb(model, [prompt[0].tolist()])
    assert found["removed"].values[-1] == 1


def test_going_on_from_fewer_removals_is_as_if_never_stopped() -> None:
    model, steps = tiny_model(n_layers=6), []
    whole = sleb(model, PROMPTS, remove=4)
    begun = sleb(model, PROMPTS, remove=2)
    found = sleb(model, PROMPTS, remove=4, go_on_from=begun, progress=lambda *at: steps.append(at))
    assert found.identical(whole)
    assert steps == [(2, 3), (3, 3)]


def test_what_cannot_be_gone_on_from_is_refused_in_words() -> None:
    model = tiny_model(n_layers=5)
    begun = sleb(model, PROMPTS, remove=2)
    with pytest.raises(ValueError, match=r"go_on_from is a result of other prompts, or removed layers that may not"):
        sleb(model, PROMPTS[1:], go_on_from=begun)
    gone = int(begun["removed"][1])
    with pytest.raises(ValueError, match=r"go_on_from is a result of other prompts, or removed layers that may not"):
        sleb(model, PROMPTS, protect=(gone,), go_on_from=begun)
    with pytest.raises(ValueError, match=r"go_on_from removed 2 layers already, and 2 are asked for\."):
        sleb(model, PROMPTS, remove=2, go_on_from=begun)


def test_layers_before_the_first_candidate_run_once_a_prompt() -> None:
    model = tiny_model(n_layers=5)
    sleb(model, PROMPTS, remove=1)  # what is found out once a model, by passes of its own
    ran = [0] * 5
    handles = []
    for layer, block in enumerate(model.blocks):

        def count(*_: Any, layer: int = layer) -> None:
            ran[layer] += 1

        linear = next(m for m in block.original_component.modules() if isinstance(m, torch.nn.Linear))
        handles.append(linear.register_forward_hook(count))
    found = sleb(model, PROMPTS, protect=(0, 1, -1))
    for handle in handles:
        handle.remove()
    removed = found["removed"].values[1:].tolist()
    assert sorted(removed) == [2, 3]
    # Read; the round's own pass; layer 3 also without layer 2, while both are there; layer 4 in every pass.
    second = {2: 1, 3: 0} if removed == [3, 2] else {2: 0, 3: 1}
    expected = [1, 1, 2 + second[2], 3 + second[3], 1 + 3 + 2]
    assert [n / len(PROMPTS) for n in ran] == expected


def test_attributes_progress_and_departures() -> None:
    seen = []
    found = sleb(tiny_model(), PROMPTS, remove=2, max_tokens=4, data="numbers", progress=lambda *at: seen.append(at))
    assert seen == [(2, 3), (3, 3)]
    assert found.attrs["preset"] == SLEB.name
    assert found.attrs["departures"] == (
        "data = numbers (paper: WikiText-2 train, 128 shuffled lines joined and cut), max_tokens = 4 (paper: 2048)"
    )
    assert found["n_tokens"].values.tolist() == [3, 3, 2]


def test_what_cannot_be_removed_is_refused_in_words() -> None:
    model = tiny_model()
    with pytest.raises(ValueError, match=r"remove=3 of 4 layers, \[0, 3\] of them protected: 2 can be removed"):
        sleb(model, PROMPTS, remove=3)
    with pytest.raises(ValueError, match=r"remove=4 of 4 layers, \[\] of them protected: 3 can be removed"):
        sleb(model, PROMPTS, remove=4, protect=())
    with pytest.raises(ValueError, match=r"remove=None of 4 layers, .*: 0 can be removed"):
        sleb(model, PROMPTS, protect=(0, 1, 2, 3))
    with pytest.raises(ValueError, match=r"protect has layer 4; the model has layers 0 to 3 \(or -1 to -4\)"):
        removable(4, (4,), None)
    with pytest.raises(InputError, match="prompt 0 has one token"):
        sleb(model, [[5]])


def test_the_model_is_as_before_after_an_error() -> None:
    model = tiny_model()
    before = sleb(model, PROMPTS)

    def fail(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sleb(model, PROMPTS, progress=fail)
    np.testing.assert_array_equal(sleb(model, PROMPTS)["loss"], before["loss"])
