"""A model left in training mode is read in evaluation mode and put back; where the user runs it, dropout is named."""

import warnings

import numpy as np
import pytest
import torch

from lacscope import (
    FixedLayers,
    L2AdaptiveComputation,
    Recorder,
    TrainingModeWarning,
    block_influence,
    halting,
    halting_hooks,
    logit_lens,
    rerun,
    trace,
)
from lacscope.model_measures._residuals import read_residuals
from lacscope.testing import tiny_model

PROMPTS = [[5, 6, 7, 8, 9], [10, 11, 12]]
EVALUATED = tiny_model("gpt2", hooks="residual")
CALLS = {
    "trace": lambda m: trace(m, PROMPTS).resid_post_norm.values,
    "decode": lambda m: trace(m, PROMPTS, max_new_tokens=4, logits="all").logits.values,
    "rules": lambda m: (
        trace(
            m, PROMPTS, rule=[FixedLayers([1]), FixedLayers([2])], effect="readout", max_new_tokens=3
        ).resid_post_norm.values
    ),
    "bypass": lambda m: trace(m, PROMPTS, rule=L2AdaptiveComputation(0.8), effect="bypass").resid_post_norm.values,
    "residuals": lambda m: next(read_residuals(m, PROMPTS)).stream.numpy(),
    "block_influence": lambda m: block_influence(m, PROMPTS).block_influence.values,
    "logit_lens": lambda m: logit_lens(m, PROMPTS).kl.values,
}


def in_training():
    """With some modules of its own in evaluation mode, as after freezing a part of it."""
    model = tiny_model("gpt2", hooks="residual")
    model.original_model.train()
    model.original_model.transformer.h[1].eval()
    return model


def flags(model):
    return {name: module.training for name, module in model.original_model.named_modules()}


@pytest.mark.parametrize("name", CALLS)
def test_it_is_read_in_evaluation_mode_and_put_back(name):
    model = in_training()
    before = flags(model)
    assert True in before.values()
    assert False in before.values()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = CALLS[name](model)
    np.testing.assert_array_equal(found, CALLS[name](EVALUATED))
    assert flags(model) == before


def test_it_is_put_back_after_an_exception():
    model = in_training()
    before = flags(model)

    def fail(activation, hook):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trace(model, PROMPTS, fwd_hooks=[("blocks.2.hook_resid_post", fail)])
    assert flags(model) == before


def test_a_rerun_is_in_evaluation_mode():
    model = in_training()
    read = next(read_residuals(EVALUATED, PROMPTS, logits=True))
    logits = rerun(model, read.tokens, 2, read.stream[2].unsqueeze(0))
    torch.testing.assert_close(logits[0].detach(), read.logits)


def test_where_the_user_runs_it_dropout_is_named():
    model = in_training()
    with pytest.warns(TrainingModeWarning, match=r"tiny-gpt2 is in training mode: dropout is on \(p = 0\.1\)"):
        halting(model, None, "observe").__enter__()
    with pytest.warns(TrainingModeWarning, match=r"model\.original_model\.eval\(\)"):
        halting_hooks(model, None, "observe", recorder=Recorder())


def test_training_without_anything_random_is_no_news():
    model = tiny_model("llama")
    model.original_model.train()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        halting_hooks(model, FixedLayers([1]), "bypass")
