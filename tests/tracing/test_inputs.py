"""What may be given to read, and what is said of the rest."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from word_tokenizer import CHAT_TEMPLATE

from lacscope import trace, voids
from lacscope.models.adapters import Adapter, adapt
from lacscope.tracing._inputs import InputError, InputWarning, check_lengths, read_inputs, read_responses
from lacscope.tracing._session import PaddingWarning

CHAT = [{"role": "user", "content": "the river"}]
# The template of conftest: <s> user the river </s> <s> assistant
CHAT_IDS = [1, 14, 4, 5, 2, 1, 15]


@pytest.fixture
def words(tiny_with_tokenizer: Any) -> Adapter:
    return adapt(tiny_with_tokenizer)


@pytest.fixture
def wordless(tiny: Any) -> Adapter:
    return adapt(tiny)


@contextmanager
def refused(message: str) -> Iterator[None]:
    with pytest.raises(InputError, match=message):
        yield


# --- every kind -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "ids"),
    [
        ("the river", [[1, 4, 5]]),
        ("日本語", [[1, 3]]),
        (["the river", "deep"], [[1, 4, 5], [1, 12]]),
        (("the",), [[1, 4]]),
        (CHAT, [CHAT_IDS]),
        ([CHAT, [{"role": "system", "content": "cold"}, *CHAT]], [CHAT_IDS, [1, 16, 13, 2, *CHAT_IDS]]),
        (
            [*CHAT, {"role": "assistant", "content": "it"}, {"role": "user", "content": "wood"}],
            [[1, 14, 4, 5, 2, 1, 15, 11, 2, 1, 14, 9, 2, 1, 15]],
        ),
        ([4, 5], [[4, 5]]),
        ([np.int64(4), 5], [[4, 5]]),
        ([[4, 5], (6,)], [[4, 5], [6]]),
        (torch.tensor([4, 5]), [[4, 5]]),
        (torch.tensor([[4, 5], [6, 7]], dtype=torch.int32), [[4, 5], [6, 7]]),
        (np.array([4, 5]), [[4, 5]]),
        (np.array([[4, 5], [6, 7]], dtype=np.uint8), [[4, 5], [6, 7]]),
        ([np.array([4, 5]), torch.tensor([6])], [[4, 5], [6]]),
        (np.array([np.array([4, 5]), np.array([6])], dtype=object), [[4, 5], [6]]),
        (np.array([[4, 5], [6]], dtype=object), [[4, 5], [6]]),
        (np.array(["the river", "deep"]), [[1, 4, 5], [1, 12]]),
        (np.array(["the river", "deep"], dtype=object), [[1, 4, 5], [1, 12]]),
        (pd.Series(["the river", "deep"], index=[7, 9]), [[1, 4, 5], [1, 12]]),
        (pd.DataFrame({"prompt": ["the river"]})["prompt"], [[1, 4, 5]]),
        (pd.Index(["the river"]), [[1, 4, 5]]),
        (pd.Series([[4, 5], [6]]), [[4, 5], [6]]),
        (pd.Series([CHAT]), [CHAT_IDS]),
        (xr.DataArray(np.array([[4, 5]])), [[4, 5]]),
    ],
)
def test_every_kind_of_input(words: Adapter, inputs: Any, ids: list[list[int]]) -> None:
    assert read_inputs(words, inputs) == ids


def test_text_is_what_the_model_reads(words: Adapter) -> None:
    assert read_inputs(words, "the river")[0] == words.model.to_tokens("the river")[0].tolist()


def test_a_mask_drops_the_padding_of_a_tensor(words: Adapter) -> None:
    tokens, mask = torch.tensor([[0, 0, 4], [5, 6, 7]]), torch.tensor([[0, 0, 1], [1, 1, 1]])
    assert read_inputs(words, tokens, mask) == [[4], [5, 6, 7]]
    assert read_inputs(words, tokens, mask.bool()) == [[4], [5, 6, 7]]
    assert read_inputs(words, tokens[0], mask[0]) == [[4]]


@pytest.mark.parametrize("tokens", [[[0, 0, 4], [5, 6, 7]], [[5, 0, 7], [4, 0, 0]]])
def test_rows_that_look_padded_are_warned_of(words: Adapter, wordless: Adapter, tokens: list[list[int]]) -> None:
    with pytest.warns(PaddingWarning, match=r"begin or end with 0 to 2 pad tokens \(id 0\), which count as tokens"):
        assert read_inputs(words, torch.tensor(tokens)) == tokens
    assert read_inputs(words, torch.tensor([[0, 5, 0], [0, 6, 0]])) == [[0, 5, 0], [0, 6, 0]]  # as many: no padding
    assert read_inputs(wordless, torch.tensor(tokens)) == tokens  # whose pad is not known


def test_ids_need_no_tokenizer(wordless: Adapter) -> None:
    assert read_inputs(wordless, [[4, 96]]) == [[4, 96]]


# --- what is refused ------------------------------------------------------------------------------------

MIXED = r"inputs must be a str, a list of str, one chat .*all of one kind; got a list of "


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ("", r"prompt 0 is empty\. Give at least one character, or token ids"),
        (["the", ""], r"prompt 1 is empty"),
        ([], r"inputs must be a str, .*or an integer tensor.*; got an empty list"),
        ((), r"inputs must be a str, .*; got \(\)"),
        (None, r"inputs must be a str, .*; got None"),
        (3, r"inputs must be a str, .*; got 3"),
        ({"role": "user", "content": "a"}, r"inputs must be a str, .*; got \{'role'"),
        (["the", 4], MIXED + "int, str"),
        (["the", [4]], MIXED + "list of int, str"),
        ([4, [5]], MIXED + "int, list of int"),
        ([[4], ["the"]], MIXED + "list of int, list of str"),
        ([[4], CHAT], MIXED + "list of dict, list of int"),
        ([*CHAT, "the"], MIXED + "dict, str"),
        ([4, 5.0], MIXED + "float, int"),
        ([True, False], MIXED + "bool"),
        ([np.array([4.0, 5.0])], MIXED + "list of float"),
        ([torch.tensor([[4, 5]])], MIXED + "list of list"),
        (np.array([[4.0, 5.0]]), r"array of inputs must hold token ids, .*; got float64 \(1, 2\) \(ndarray\)"),
        (np.array([True, False]), r"array of inputs must hold token ids.*got bool \(2,\)"),
        (np.ones((2, 2, 2), dtype=int), r"array of inputs must hold token ids.*got int64 \(2, 2, 2\)"),
        (np.array([], dtype=int), r"array of inputs must hold token ids.*got int64 \(0,\)"),
        (np.array([["the", "river"]]), r"array of inputs must hold token ids.*\(1, 2\)"),
        (pd.Series(["the", float("nan")]), MIXED + "float, str"),
        (pd.Series([4.0, 5.0]), r"array of inputs must hold token ids.*got float64 \(2,\) \(Series\)"),
        (pd.DataFrame({"prompt": ["the"]}), r"array of inputs must hold token ids.*\(1, 1\) \(DataFrame\)"),
        (b"!!", r"inputs must be a str, .*; got b'!!'"),
        ([b"!!"], MIXED + "bytes"),
        ([[]], r"prompt 0 has no tokens\. Give at least one"),
        ([[4], []], r"prompt 1 has no tokens"),
        ([4, 97], r"prompt 0 has token id 97; tiny-llama has ids 0 to 96"),
        ([[4], [5, -1]], r"prompt 1 has token id -1; tiny-llama has ids 0 to 96"),
        (torch.tensor([4, 1000]), r"prompt 0 has token id 1000"),
        (
            torch.ones(2, 3),
            r"tensor of inputs must hold token ids, \[pos\] or \[batch, pos\]; got torch\.float32 \(2, 3\)",
        ),
        (torch.ones(3, dtype=torch.bool), r"must hold token ids.*got torch\.bool"),
        (torch.ones(3, dtype=torch.complex64), r"must hold token ids.*got torch\.complex64"),
        (torch.ones(2, 2, 2, dtype=torch.long), r"must hold token ids.*got torch\.int64 \(2, 2, 2\)"),
        (torch.tensor(3), r"must hold token ids.*\(\)"),
        (torch.zeros(0, dtype=torch.long), r"must hold token ids.*\(0,\)"),
        ([{"role": "user"}], r"chat 0: a message needs 'role' and 'content', got keys \['role'\]"),
        ([CHAT, [{"text": "a"}]], r"chat 1: a message needs .*\['text'\]"),
        (
            [*CHAT, {"role": "assistant", "content": "it is"}],
            r"chat 0 ends with the assistant's message\. To trace a given answer, .*pass it as responses=",
        ),
        ([CHAT, [{"role": "tool", "content": "a"}]], r"tiny-llama's chat template refuses chat 1: no role tool"),
    ],
)
def test_inputs_that_are_refused(words: Adapter, inputs: Any, message: str) -> None:
    with refused(message):
        read_inputs(words, inputs)


@pytest.mark.parametrize(("inputs", "what"), [("the", "text"), (["the"], "text"), (CHAT, "a chat")])
def test_words_need_a_tokenizer(wordless: Adapter, inputs: Any, what: str) -> None:
    with refused(f"tiny-llama has no tokenizer, so {what} cannot be read: pass token ids"):
        read_inputs(wordless, inputs)


def test_a_chat_needs_a_template(words: Adapter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words.tokenizer, "chat_template", None)
    with refused(r"no chat template, so chats cannot be read\. Pass text, or set model\.tokenizer\.chat_template"):
        read_inputs(words, CHAT)


def test_masks_that_do_not_fit(words: Adapter) -> None:
    tokens = torch.tensor([[4, 5], [6, 7]])
    with refused(r"attention_mask is \(2, 3\), the inputs are \(2, 2\)"):
        read_inputs(words, tokens, torch.ones(2, 3, dtype=torch.long))
    with refused("prompt 1 has no tokens"):
        read_inputs(words, tokens, torch.tensor([[1, 1], [0, 0]]))
    with refused("attention_mask= goes with an integer tensor .*other inputs need no mask"):
        read_inputs(words, [[4, 5]], torch.ones(1, 2, dtype=torch.long))


# --- responses ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("responses", "ids"),
    [
        ("it is", [[11, 10]]),
        (["it is"], [[11, 10]]),
        ([11, 10], [[11, 10]]),
        ([[11, 10]], [[11, 10]]),
        ([(11, np.int64(10))], [[11, 10]]),
        (np.array(["it is"]), [[11, 10]]),
        (pd.Series(["it is"], index=[7]), [[11, 10]]),
        (np.array([11, 10]), [[11, 10]]),
        (np.array([[11, 10]], dtype=np.uint8), [[11, 10]]),
        ([np.array([11, 10])], [[11, 10]]),
        (pd.Series([[11, 10]]), [[11, 10]]),
        (torch.tensor([[11, 10]]), [[11, 10]]),
        ("it </s>", [[11, 2]]),
        ("<s> it", [[11]]),  # the prompt has the BOS
    ],
)
def test_every_kind_of_response(words: Adapter, responses: Any, ids: list[list[int]]) -> None:
    assert read_responses(words, responses, 1) == ids


RESPONSES = r"responses= takes one answer per input: a list of str, or of lists of token ids; got "


@pytest.mark.parametrize(
    ("responses", "message"),
    [
        (["it"], r"responses= has 1 answers for 2 inputs"),
        ([], r"responses= has 0 answers for 2 inputs"),
        ("it", r"responses= has 1 answers for 2 inputs"),
        (["it", "is", "a"], r"responses= has 3 answers for 2 inputs"),
        (["it", ""], r"response 1 is empty"),
        ([[], [4]], r"response 0 is empty"),
        (["it", [4]], RESPONSES + "a list of list of int, str"),
        (["it", None], RESPONSES + "a list of NoneType, str"),
        ([[4], [5.0]], RESPONSES + "a list of list of float, list of int"),
        (3, RESPONSES + "3"),
        ([[4], [97]], r"response 1 has token id 97; tiny-llama has ids 0 to 96"),
    ],
)
def test_responses_that_are_refused(words: Adapter, responses: Any, message: str) -> None:
    with refused(message):
        read_responses(words, responses, 2)


def test_text_responses_need_a_tokenizer(wordless: Adapter) -> None:
    with refused("has no tokenizer, so text cannot be read"):
        read_responses(wordless, "it", 1)


# --- lengths --------------------------------------------------------------------------------------------


def test_the_context_may_be_filled_to_the_last_token(words: Adapter) -> None:
    check_lengths(words, [[4] * 128], 0)
    check_lengths(words, [[4] * 128], 1)  # produced, never read
    check_lengths(words, [[4] * 120], 9)


@pytest.mark.parametrize(
    ("length", "new", "message"),
    [
        (129, 0, r"prompt 1 has 129 tokens; the context of tiny-llama holds 128\. Shorten the prompt"),
        (120, 10, r"prompt 1 has 120 tokens and 9 generated ones to read; the context .*lower max_new_tokens"),
    ],
)
def test_what_does_not_fit_the_context(words: Adapter, length: int, new: int, message: str) -> None:
    with refused(message):
        check_lengths(words, [[4], [4] * length], new)


# --- half a character -----------------------------------------------------------------------------------

HALVES = [("a \ud83d", "U+D83D at 2"), ("\ude42 river", "U+DE42 at 0")]


@pytest.mark.parametrize(("text", "found"), HALVES)
def test_half_a_character_is_refused_wherever_text_is_read(words: Adapter, text: str, found: str) -> None:
    message = rf"has half a character, {re.escape(found)}: a cut emoji, or bytes of another encoding\. Read its file"
    parts = [{"role": "user", "content": [{"type": "text", "text": text}]}]
    for inputs, what in (
        (text, "prompt 0"),
        (["the", text], "prompt 1"),
        ([{"role": "user", "content": text}], "chat 0"),
        ([CHAT, parts], "chat 1"),
    ):
        with refused(f"^{what} {message}"):
            read_inputs(words, inputs)
    with refused(f"^response 1 {message}"):
        read_responses(words, ["it", text], 2)
    # What the message says to do gives a whole text.
    mended = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert read_inputs(words, mended)


def test_a_whole_pair_is_a_character(words: Adapter) -> None:
    assert read_inputs(words, "\U0001f642 river") == [[1, 3, 5]]


# --- two beginnings -------------------------------------------------------------------------------------


def test_a_text_that_brings_its_own_bos_is_warned_of(words: Adapter) -> None:
    with pytest.warns(InputWarning, match=r"^prompt 1 is read with two BOS tokens \('<s>'\): .* Give the chat itself"):
        assert read_inputs(words, ["the", "<s> river"]) == [[1, 4], [1, 1, 5]]
    with pytest.warns(InputWarning, match=r"^response 0 begins with a BOS token \('<s>'\), read in the middle"):
        assert read_responses(words, ["<s> <s> it"], 1) == [[1, 11]]


def test_one_bos_and_ids_that_were_given_are_not_warned_of(words: Adapter) -> None:
    # Warnings are errors here.
    assert read_inputs(words, "the <s> river") == [[1, 4, 1, 5]]
    assert read_inputs(words, CHAT) == [CHAT_IDS]
    assert read_inputs(words, [[1, 1, 5]]) == [[1, 1, 5]]
    assert read_responses(words, [[1, 11]], 1) == [[1, 11]]


def test_a_rendered_chat_is_warned_of_by_trace(tiny_with_tokenizer: Any) -> None:
    rendered = tiny_with_tokenizer.tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    with pytest.warns(InputWarning, match="two BOS tokens"):
        trace(tiny_with_tokenizer, rendered)


# --- options of the chat template -----------------------------------------------------------------------

THINKING = CHAT_TEMPLATE + "{% if enable_thinking is defined and not enable_thinking %} cold{% endif %}"


@pytest.fixture
def thinking(tiny_with_tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The model with a template that has an option."""
    monkeypatch.setattr(tiny_with_tokenizer.tokenizer, "chat_template", THINKING)
    return tiny_with_tokenizer


def test_options_reach_the_template_and_the_trace(thinking: Any) -> None:
    for value, ids in ((False, [*CHAT_IDS, 13]), (True, CHAT_IDS)):
        options = {"enable_thinking": value}
        assert read_inputs(adapt(thinking), [CHAT], chat_template_kwargs=options) == [ids]
        found = trace(thinking, [CHAT], chat_template_kwargs=options)
        assert found["token_id"].values[0].tolist() == ids


def test_options_without_a_chat_or_without_such_a_name_are_refused(thinking: Any) -> None:
    options = {"enable_thinking": False}
    for inputs in ("the", ["the"], [4, 5], [[4, 5]], torch.tensor([[4, 5]])):
        with refused(r"^chat_template_kwargs= are options of the chat template: they go with chats alone\."):
            trace(thinking, inputs, chat_template_kwargs=options)
    said = "^tiny-llama's chat template has no option 'enable_thinkin', so chat_template_kwargs would change nothing"
    with refused(said + r"\. Did you mean 'enable_thinking'\?$"):
        trace(thinking, CHAT, chat_template_kwargs={"enable_thinkin": False})


def test_options_that_are_ours_are_refused(thinking: Any) -> None:
    with refused("has no option 'tokenize'"):
        read_inputs(adapt(thinking), CHAT, chat_template_kwargs={"tokenize": False})


# --- through the front door -----------------------------------------------------------------------------


def test_trace_reads_a_chat_and_its_answer(tiny_with_tokenizer: Any) -> None:
    found = trace(tiny_with_tokenizer, CHAT, responses="it is")
    assert found["token_id"].values[0].tolist() == [*CHAT_IDS, 11, 10]
    assert found["phase"].values[0].tolist() == ["prefill"] * 7 + ["decode"] * 2
    assert found["token_text"].values[0, 2:4].tolist() == ["the", "river"]
    assert found["special"].values[0].tolist() == [token in (0, 1, 2, 3) for token in (*CHAT_IDS, 11, 10)]


def test_trace_refuses_before_it_runs_anything(tiny_with_tokenizer: Any) -> None:
    def must_not_run(activation: Any, hook: Any) -> None:
        raise AssertionError("the model ran")

    hooks = [("blocks.0.hook_resid_pre", must_not_run)]
    for inputs, message in (("", "prompt 0 is empty"), ([4] * 200, "holds 128"), ([97], "token id 97")):
        with refused(message):
            trace(tiny_with_tokenizer, inputs, fwd_hooks=hooks)


def test_trace_reads_columns_and_arrays_as_it_reads_lists(tiny_with_tokenizer: Any, unchecked: None) -> None:
    texts, answers, ids = ["the river", "deep"], ["it is", "cold"], [7, 3]
    plain = trace(tiny_with_tokenizer, texts, responses=answers, sample_ids=ids)
    assert plain["sample"].values.tolist() == ids
    given: list[Any] = [
        (pd.Series(texts, index=[5, 1]), pd.Series(answers, index=[0, 9]), pd.Series(ids, index=[4, 2])),
        (np.array(texts), np.array(answers, dtype=object), np.array(ids)),
    ]
    for inputs, responses, sample_ids in given:
        found = trace(tiny_with_tokenizer, inputs, responses=responses, sample_ids=sample_ids)
        xr.testing.assert_identical(found.drop_attrs(), plain.drop_attrs())
    xr.testing.assert_identical(voids(plain, np.array([0.1, 0.8])), voids(plain, [0.1, 0.8]))
    xr.testing.assert_identical(voids(plain, pd.Series([0.1, 0.8], index=[3, 1])), voids(plain, [0.1, 0.8]))
    xr.testing.assert_identical(voids(plain, np.float32(0.5)), voids(plain, 0.5))


def test_a_single_hook_is_a_list_of_one(tiny: Any) -> None:
    def doubled(activation: Any, hook: Any) -> Any:
        return 2 * activation

    pair = ("blocks.1.hook_resid_pre", doubled)
    found = trace(tiny, [[4, 5, 6]], fwd_hooks=pair)
    xr.testing.assert_equal(found, trace(tiny, [[4, 5, 6]], fwd_hooks=[pair]))
    unhooked = trace(tiny, [[4, 5, 6]])["resid_post_norm"]
    assert not np.allclose(found["resid_post_norm"].isel(layer=1), unhooked.isel(layer=1))
    by_filter = trace(tiny, [[4, 5, 6]], fwd_hooks=(lambda name: name == pair[0], doubled))
    xr.testing.assert_equal(by_filter["resid_post_norm"], found["resid_post_norm"])
