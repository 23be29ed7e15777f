"""The residual stream of one prompt, against plain hooks and a model run whole."""

from typing import Any

import pytest
import torch

from lacscope.model_measures._residuals import read_residuals, rerun
from lacscope.models._checks import UnsupportedModelError
from lacscope.models.adapters import adapt
from lacscope.plans import Plan, plan
from lacscope.testing import ARCHITECTURES, tiny_model


class Holder:
    """A block undone by two hooks, in the order in which it is entered and left."""

    def __call__(self, activation: torch.Tensor, hook: Any) -> None:
        self.entered = activation

    def back(self, activation: torch.Tensor, hook: Any) -> torch.Tensor:
        return self.entered


PROMPT = [5, 17, 3, 60, 8, 44, 9]
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(scope="module", params=sorted(ARCHITECTURES))
def model(request: pytest.FixtureRequest) -> Any:
    return tiny_model(request.param, n_layers=4)


def whole(model: Any, hooks: list[Any] = []) -> torch.Tensor:  # noqa: B006
    with torch.no_grad():
        return model.run_with_hooks(torch.tensor([PROMPT]), fwd_hooks=hooks, return_type="logits")


def test_the_streams_are_those_of_the_cache(model: Any) -> None:
    (read,) = read_residuals(model, PROMPT, logits=True)
    with torch.no_grad():
        logits, cache = model.run_with_cache(torch.tensor([PROMPT]))
    for layer in range(4):
        torch.testing.assert_close(read.stream[layer], cache[f"blocks.{layer}.hook_resid_pre"][0], **CLOSE)
    torch.testing.assert_close(read.stream[4], cache["blocks.3.hook_resid_post"][0], **CLOSE)
    torch.testing.assert_close(read.logits, logits[0], **CLOSE)


@pytest.mark.parametrize("start", range(5))
def test_a_rerun_from_any_layer_is_the_whole_pass(model: Any, start: int) -> None:
    (read,) = read_residuals(model, PROMPT, logits=True)
    seen: dict[int, torch.Tensor] = {}
    with torch.no_grad():
        logits = rerun(model, read.tokens, start, read.stream[[start, start]], visit=seen.__setitem__)
    assert sorted(seen) == list(range(start + 1, 5))
    for layer, stream in seen.items():
        for variant in stream:
            torch.testing.assert_close(variant, read.stream[layer], **CLOSE)
    for variant in logits:
        torch.testing.assert_close(variant, read.logits, **CLOSE)


@pytest.mark.parametrize("skipped", range(4))
def test_skipping_a_block_equals_a_hook_that_undoes_it(model: Any, skipped: int) -> None:
    (read,) = read_residuals(model, PROMPT)
    entered = {}

    def remember(activation: torch.Tensor, hook: Any) -> None:
        entered["pre"] = activation

    def undo(activation: torch.Tensor, hook: Any) -> torch.Tensor:
        return entered["pre"]

    name = f"blocks.{skipped}.hook_resid"
    expected = whole(model, [(f"{name}_pre", remember), (f"{name}_post", undo)])
    with torch.no_grad():
        found = rerun(model, read.tokens, skipped + 1, read.stream[skipped].unsqueeze(0))
    torch.testing.assert_close(found, expected, **CLOSE)


def test_blocks_before_start_do_not_run(model: Any) -> None:
    (read,) = read_residuals(model, PROMPT)
    ran = []
    handles = [
        module.register_forward_hook(lambda *_: ran.append(1))
        for module in model.blocks[1].original_component.modules()
        if isinstance(module, torch.nn.Linear)
    ]
    with torch.no_grad():
        rerun(model, read.tokens, 2, read.stream[2].unsqueeze(0))
        assert not ran
        rerun(model, read.tokens, 1, read.stream[1].unsqueeze(0))
    for handle in handles:
        handle.remove()


def test_the_model_is_as_before_also_after_an_error(model: Any) -> None:
    (read,) = read_residuals(model, PROMPT)
    before = whole(model)
    forwards = [block.original_component.__dict__.get("forward") for block in model.blocks]

    def fail(layer: int, stream: torch.Tensor) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rerun(model, read.tokens, 2, read.stream[2].unsqueeze(0), visit=fail)
    assert torch.equal(whole(model), before)
    assert not adapt(model).user_hooked()
    assert [block.original_component.__dict__.get("forward") for block in model.blocks] == forwards


def test_sublayer_outputs_and_hooks_of_a_rerun() -> None:
    model = tiny_model("llama")
    (read,) = read_residuals(model, PROMPT, sublayers=True)
    torch.testing.assert_close(read.attn_out + read.mlp_out, read.update, **CLOSE)

    def zero(activation: torch.Tensor, hook: Any) -> torch.Tensor:
        return torch.zeros_like(activation)

    hooks = [("blocks.1.hook_attn_out", zero)]
    with torch.no_grad():
        found = rerun(model, read.tokens, 1, read.stream[1].unsqueeze(0), fwd_hooks=hooks, keep=2)
    torch.testing.assert_close(found, whole(model, hooks)[:, -2:], **CLOSE)


def test_the_users_hooks_count() -> None:
    model = tiny_model("llama")
    push = torch.linspace(-1, 1, 32)
    with model.hooks(fwd_hooks=[("blocks.2.hook_resid_post", lambda activation, hook: activation + push)]):
        (read,) = read_residuals(model, PROMPT, logits=True)
        with torch.no_grad():
            again = rerun(model, read.tokens, 1, read.stream[1].unsqueeze(0))
    (plain,) = read_residuals(model, PROMPT, logits=True)
    torch.testing.assert_close(again[0], read.logits, **CLOSE)
    assert not torch.allclose(plain.logits, read.logits, **CLOSE)


def test_an_edit_where_the_next_block_is_entered_outlives_the_block_that_is_skipped() -> None:
    model = tiny_model("llama")
    push = torch.linspace(-1, 1, 32)
    steer = ("blocks.2.hook_resid_pre", lambda activation, hook: activation + push)
    hold = Holder()
    undo = [("blocks.1.hook_resid_pre", hold), ("blocks.1.hook_resid_post", hold.back)]
    expected = whole(model, [*undo, steer])
    with model.hooks(fwd_hooks=[steer]):
        (read,) = read_residuals(model, PROMPT)
        torch.testing.assert_close(read.left[2] + push, read.stream[2], **CLOSE)
        with torch.no_grad():
            found = rerun(model, read.tokens, 2, read.stream[1].unsqueeze(0), leaving=True)
            again = rerun(model, read.tokens, 2, read.left[2].unsqueeze(0), leaving=True)
    torch.testing.assert_close(found, expected, **CLOSE)
    torch.testing.assert_close(again, whole(model, [steer]), **CLOSE)


def test_without_hooks_nothing_is_kept_twice() -> None:
    (read,) = read_residuals(tiny_model("llama"), PROMPT)
    assert read.left is read.stream


def test_a_plan_that_reorders_is_refused_and_one_that_skips_is_read() -> None:
    model = tiny_model("llama")
    with plan(model, Plan.reverse(4, [1, 2])):
        reads = read_residuals(model, PROMPT)
        with pytest.raises(ValueError, match=r"under the plan \[0, 2, 1, 3\], which does more than skip"):
            next(reads)
    (plain,) = read_residuals(model, PROMPT)
    with plan(model, Plan.skip(4, [1])):
        (read,) = read_residuals(model, PROMPT, logits=True)
        with torch.no_grad():
            again = rerun(model, read.tokens, 2, read.stream[2].unsqueeze(0))
    assert torch.equal(read.stream[1], read.stream[2])
    torch.testing.assert_close(again[0], read.logits, **CLOSE)
    with torch.no_grad():
        without = rerun(model, plain.tokens, 2, plain.stream[1].unsqueeze(0))
    torch.testing.assert_close(read.logits, without[0], **CLOSE)


def test_gradients_flow_into_the_stream() -> None:
    model = tiny_model("llama")
    (read,) = read_residuals(model, PROMPT)
    stream = read.stream[2].unsqueeze(0).requires_grad_()
    rerun(model, read.tokens, 2, stream).sum().backward()
    assert stream.grad is not None
    assert stream.grad.abs().sum() > 0


def test_what_does_not_fit_is_refused_in_words() -> None:
    model = tiny_model("llama", hooks="residual")
    (read,) = read_residuals(model, PROMPT)
    with pytest.raises(ValueError, match=r"start must be a layer 0 to 4 .*got 5"):
        rerun(model, read.tokens, 5, read.stream[:1])
    with pytest.raises(ValueError, match="7 positions for 6 tokens"):
        rerun(model, read.tokens[:-1], 0, read.stream[:1])
    with pytest.raises(ValueError, match=r"no hook point 'blocks.1.hook_attn_out'.*hooks='full'"):
        rerun(model, read.tokens, 0, read.stream[:1], fwd_hooks=[("blocks.1.hook_attn_out", lambda a, hook: None)])
    with pytest.raises(UnsupportedModelError, match="hooks='full'"):
        read_residuals(model, PROMPT, sublayers=True)
