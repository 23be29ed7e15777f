"""lm-eval under rules: its own scores without one, the traces' numbers with one."""

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

lm_eval = pytest.importorskip("lm_eval")

from helpers import unchanged  # noqa: E402

from lacscope import FixedLayers, L2AdaptiveComputation, layer_usage, load_model, trace  # noqa: E402
from lacscope.harness import evaluate, resolve_rule  # noqa: E402
from lacscope.harness._usage import ScoredRows, Usage  # noqa: E402
from lacscope.rules import RULES, LayerView, register  # noqa: E402
from lacscope.tasks._pocket import load_pocket  # noqa: E402
from lacscope.testing import tiny_transformers_model  # noqa: E402

pytestmark = [
    # lm-eval and what it imports; none of it ours to mend.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
LAC = L2AdaptiveComputation(0.8)
KINDS = ("choice", "until", "rolling")


# --- a tiny model in a folder, and tasks on lines of our own --------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama and a tokenizer with one word for each of its 97 ids; no word is part of another."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    special = ("<pad>", "<s>", "</s>", "<unk>")
    words = {word: index for index, word in enumerate((*special, *(f"q{i}." for i in range(4, 97))))}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    home = tmp_path_factory.mktemp("tiny")
    made.save_pretrained(home)
    tiny_transformers_model("llama").save_pretrained(home)
    return home


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return load_model(folder, hooks="residual")


def line(*ids: int) -> str:
    return " ".join(f"q{i}." for i in ids)


ROWS = [
    {"text": line(5, 17, 60, 9, 33, 71, 8), "choices": [line(40, 41), line(7, 8, 9)], "right": 0},
    {"text": line(44, 30, 90), "choices": [line(12, 77, 13, 14), line(90, 91)], "right": 1},
    {"text": line(12), "choices": [line(11, 12, 10), line(50, 51)], "right": 1},
    {"text": line(7, 7, 65, 21, 80), "choices": [line(22, 9), line(23, 9)], "right": 0},
    {"text": line(18, 81), "choices": [line(4, 5), line(6, 7, 8, 9, 10)], "right": 0},
]


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """``task(kind, rows, **more)``: an lm-eval task on lines of a JSONL file."""
    home = tmp_path_factory.mktemp("data")

    def make(kind: str, rows: list[dict[str, Any]] = ROWS, **more: Any) -> dict[str, Any]:
        path = home / f"{abs(hash(json.dumps(rows)))}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        shared = {
            "task": f"own_{kind}",
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"validation": str(path)}, "cache_dir": str(home / "cache")},
            "validation_split": "validation",
            "doc_to_text": "{{text}}",
        }
        mean = {"aggregation": "mean", "higher_is_better": True}
        own: dict[str, Any] = {
            "choice": {
                "output_type": "multiple_choice",
                "doc_to_choice": "{{choices}}",
                "doc_to_target": "right",
                "metric_list": [{"metric": "acc", **mean}],
            },
            "until": {
                "output_type": "generate_until",
                "doc_to_target": "{{choices[0]}}",
                "generation_kwargs": {"until": ["never"], "max_gen_toks": 6, "do_sample": False},
                "metric_list": [{"metric": "exact_match", **mean}],
            },
            "rolling": {
                "output_type": "loglikelihood_rolling",
                "doc_to_text": "",
                "doc_to_target": "{{text}}",
                "metric_list": [{"metric": "word_perplexity"}],
            },
        }
        return {**shared, **own[kind], **more}

    return make


def answers(results: dict[str, Any]) -> dict[str, list[Any]]:
    """What the model answered to each request, by task."""
    return {name: [sample["resps"] for sample in samples] for name, samples in results["samples"].items()}


def run(model: Any, tasks: list[dict[str, Any]], **options: Any) -> dict[str, Any]:
    return evaluate(model, tasks, log_samples=True, bootstrap_iters=0, **options)


def lm_evals_own(folder: Any, tasks: list[dict[str, Any]], batch_size: int, **options: Any) -> dict[str, Any]:
    arguments = {"pretrained": str(folder), "dtype": "float32", "device": "cpu"}
    return lm_eval.simple_evaluate(
        model="hf",
        model_args=arguments,
        tasks=tasks,
        batch_size=batch_size,
        log_samples=True,
        bootstrap_iters=0,
        task_manager=lm_eval.tasks.TaskManager(include_defaults=False),
        **options,
    )


# --- scores ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_size", [1, 4])
def test_without_a_rule_and_observed_the_scores_are_lm_evals_own(
    folder: Path, model: Any, task: Callable[..., dict[str, Any]], kind: str, batch_size: int
):
    own = lm_evals_own(folder, [task(kind)], batch_size)
    plain = run(model, [task(kind)], batch_size=batch_size)
    observed = run(model, [task(kind)], batch_size=batch_size, rule=LAC)
    assert answers(plain) == answers(observed) == answers(own)
    assert plain["results"] == observed["results"] == own["results"]
    assert plain["lacscope"]["usage"] == {}
    assert observed["lacscope"]["usage"][f"own_{kind}"]["tokens"]["prefill"] > 0


@pytest.mark.parametrize("effect", ["readout", "bypass"])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_loglikelihoods_and_their_usage_are_the_traces(
    model: Any, task: Callable[..., dict[str, Any]], effect: str, batch_size: int
):
    prompts = [[int(word[1:-1]) for word in row["text"].split()] for row in ROWS for _ in row["choices"]]
    replies = [[int(word[1:-1]) for word in choice.split()] for row in ROWS for choice in row["choices"]]
    full = trace(model, prompts, responses=replies, rule=LAC, effect=effect, measures=["surprisal"])
    expected = -full.surprisal.where(full.valid & (full.phase == "decode")).sum("token").values
    results = run(model, [task("choice")], rule=LAC, effect=effect, batch_size=batch_size)
    found = [response[0][0] for sample in answers(results)["own_choice"] for response in sample]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    full_model = run(model, [task("choice")])
    assert not np.allclose(found, [r[0][0] for s in answers(full_model)["own_choice"] for r in s], rtol=1e-3)

    # The last token of a continuation is scored, and never read.
    read = trace(model, prompts, responses=[reply[:-1] for reply in replies], rule=LAC, effect=effect)
    usage = results["lacscope"]["usage"]["own_choice"]
    assert_usage_of(read, usage)
    assert usage["scored"] == sum(map(len, replies))
    last = (read.void.isel(layer=-1) == 1) & read.valid
    length = np.array([len(prompt) for prompt in prompts])
    scored = read.token.values >= length[:, None] - 1
    assert usage["early"] == int((last.values & scored).sum())
    assert usage["early"] > 0


def assert_usage_of(traced: Any, usage: dict[str, Any]) -> None:
    expected = layer_usage(traced)
    for phase in ("prefill", "decode"):
        share = expected.sel(phase=phase)
        assert usage["tokens"][phase] == int(share.n)
        np.testing.assert_allclose(usage["usage_by_layer"][phase], share.values, rtol=1e-12)
        assert usage["usage"][phase] == pytest.approx(float(share.mean()))
        depth = traced.void.where(traced.valid & (traced.phase == phase)).values
        exits = [
            max((layer + 1 for layer in range(4) if column[layer] == 0), default=0) / 4
            for column in np.moveaxis(depth, 1, 2).reshape(-1, 4)
            if not np.isnan(column).any()
        ]
        assert usage["exit_depth"][phase] == pytest.approx(np.mean(exits))


@pytest.mark.parametrize("effect", ["observe", "readout", "bypass"])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_generation_stops_counting_each_row_at_its_own_stop_sequence(
    model: Any, task: Callable[..., dict[str, Any]], effect: str, batch_size: int
):
    prompts = [[int(word[1:-1]) for word in row["text"].split()] for row in ROWS]
    traced = trace(model, prompts, max_new_tokens=6, rule=LAC, effect=effect)
    produced = [[int(i) for i in row if i >= 0] for row in traced.next_token_id.values]
    assert all(len(row) == 6 and min(row) > 3 for row in produced), "the tiny model's answers changed: choose others"
    stop = produced[0][2]
    options = {"until": [f"q{stop}."], "max_gen_toks": 6, "do_sample": False}
    results = run(model, [task("until", generation_kwargs=options)], rule=LAC, effect=effect, batch_size=batch_size)

    ends = [row.index(stop) if stop in row else 5 for row in produced]
    for row, end, sample in zip(produced, ends, answers(results)["own_until"], strict=True):
        words = row[:end] if stop in row else row
        assert sample[0][0].split() == [f"q{i}." for i in words]
    read = [len(prompt) + end for prompt, end in zip(prompts, ends, strict=True)]
    kept = traced.token.values < np.array(read)[:, None]
    voids = traced.void.values == 1
    usage = results["lacscope"]["usage"]["own_until"]
    for phase in ("prefill", "decode"):
        tokens = kept & traced.valid.values & (traced.phase.values == phase)
        assert usage["tokens"][phase] == tokens.sum()
        active = [(~voids[:, layer] & tokens).sum() / tokens.sum() for layer in range(4)]
        np.testing.assert_allclose(usage["usage_by_layer"][phase], active)
    assert usage["tokens"]["decode"] == sum(ends) < 25


@dataclass(frozen=True)
class DecodeOnly:
    """A rule that sees phase, position and padding: void where the token is decode, and only there."""

    decides: ClassVar[str] = "before"
    needs: ClassVar[frozenset[str]] = frozenset({"phase", "position", "valid"})
    unit: str = "block"

    def voids(self, view: LayerView, pass_state: dict[str, Any], run_state: dict[str, Any]) -> Any:
        assert view.decode is not None
        assert view.valid is not None
        assert view.position is not None
        assert bool((view.position[view.valid] >= 0).all())
        return view.decode & view.valid


@pytest.mark.parametrize("kind", ["choice", "until"])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_rule_is_told_phase_and_padding(model: Any, task: Callable[..., dict[str, Any]], kind: str, batch_size: int):
    results = run(model, [task(kind)], rule=DecodeOnly(), batch_size=batch_size)
    assert results["lacscope"]["usage"][f"own_{kind}"]["usage"] == {"prefill": 1.0, "decode": 0.0}


def test_one_token_choices_are_read_once_and_have_no_decode(model: Any, task: Callable[..., dict[str, Any]]):
    rows = [{"text": line(5, 17, 60), "choices": [line(40), line(41)], "right": 0}]
    usage = run(model, [task("choice", rows)], rule=LAC)["lacscope"]["usage"]["own_choice"]
    assert usage["tokens"] == {"prefill": 3, "decode": 0}
    assert usage["usage"]["decode"] is usage["exit_depth"]["decode"] is usage["usage_by_layer"]["decode"] is None
    assert usage["scored"] == 1


def test_tasks_are_counted_apart_and_groups_together(model: Any, task: Callable[..., dict[str, Any]], tmp_path: Path):
    tasks = [task("choice"), task("choice", ROWS[:2], task="own_short"), task("until")]
    apart = [run(model, [one], rule=LAC)["lacscope"]["usage"][one["task"]] for one in tasks]
    # YAML reads JSON.
    for name, content in [
        *((one["task"], one) for one in tasks),
        ("own_group", {"group": "own_group", "task": [one["task"] for one in tasks]}),
    ]:
        (tmp_path / f"{name}.yaml").write_text(json.dumps(content))
    manager = lm_eval.tasks.TaskManager(include_path=str(tmp_path), include_defaults=False)
    together = run(model, [manager.load(["own_group"])["groups"]["own_group"]], rule=LAC, batch_size=4)["lacscope"][
        "usage"
    ]
    assert together.keys() == {"own_choice", "own_short", "own_until", "own_group"}
    for one, alone in zip(tasks, apart, strict=True):
        assert together[one["task"]]["tokens"] == alone["tokens"]
        assert together[one["task"]]["usage"] == pytest.approx(alone["usage"])
    for phase in ("prefill", "decode"):
        weights = [alone["tokens"][phase] for alone in apart]
        pooled = np.average([alone["usage"][phase] for alone in apart], weights=weights)
        assert together["own_group"]["usage"][phase] == pytest.approx(pooled)
    assert together["own_group"]["scored"] == sum(alone["scored"] for alone in apart)


def test_registered_by_name_with_arguments_as_text(folder: Path, model: Any, task: Callable[..., dict[str, Any]]):
    named = lm_eval.simple_evaluate(
        model="lacscope",
        model_args=f"pretrained={folder},alpha=0.8,effect=bypass,max_length=64",
        tasks=[task("choice")],
        batch_size=4,
        bootstrap_iters=0,
        task_manager=lm_eval.tasks.TaskManager(include_defaults=False),
    )
    called = run(model, [task("choice")], rule=LAC, effect="bypass", batch_size=4)
    assert answers(named) == answers(called)
    about = named["config"]["lacscope"]
    assert (about["effect"], json.loads(about["rule"])["alpha"]) == ("bypass", 0.8)
    assert about["usage"] == called["lacscope"]["usage"]
    assert "lacscope" not in called["config"]


def test_model_and_random_state_are_as_they_were(model: Any, task: Callable[..., dict[str, Any]]):
    python = random.getstate()
    with unchanged(model):
        run(model, [task("choice"), task("until")], rule=LAC, effect="bypass", batch_size=4)
    assert random.getstate() == python


# --- refusals -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unchecked")
def test_what_cannot_be_run_is_refused_in_words(folder: Path, model: Any, task: Callable[..., dict[str, Any]]):
    beams = task("until", generation_kwargs={"until": ["x"], "max_gen_toks": 3, "num_beams": 2})
    with pytest.raises(ValueError, match=r"num_beams=2 cannot run under a rule.*greedy"):
        run(model, [beams], rule=LAC)
    with pytest.raises(ValueError, match=r"effect='bypass' needs a halting rule"):
        run(model, [task("choice")], effect="bypass")
    with pytest.raises(TypeError, match=r"inside a TransformerBridge; got LlamaForCausalLM.*load_model"):
        run(tiny_transformers_model("llama"), [task("choice")])
    with pytest.raises(ValueError, match=r"has no option 'alhpa'; it has pretrained, rule, alpha"):
        lm_eval.simple_evaluate(model="lacscope", model_args=f"pretrained={folder},alhpa=0.8", tasks=[task("choice")])


@pytest.mark.slow  # lm-eval reads its thousands of task files
@pytest.mark.once
def test_an_unknown_task_is_refused(model: Any):
    with pytest.raises(ValueError, match=r"knows no task 'own_nothing'.*--include-path"):
        evaluate(model, "own_nothing")


def test_rules_in_words():
    assert resolve_rule() is None
    assert resolve_rule("lac") == resolve_rule(alpha=0.8) == LAC
    assert resolve_rule(alpha=0, unit="attn") == L2AdaptiveComputation(0, "attn")
    assert resolve_rule(layers="3;7;-1") == FixedLayers([3, 7, -1])
    assert resolve_rule("fixed", layers=2) == resolve_rule(layers=[2]) == FixedLayers([2])
    assert resolve_rule(LAC) is LAC


def test_a_rule_of_ones_own_by_its_name(model: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(RULES, "_added", {})
    register("half", lambda alpha=0.5: L2AdaptiveComputation(alpha))
    assert resolve_rule("half", alpha=0.8) == LAC
    assert resolve_rule("half") == L2AdaptiveComputation(0.5)
    with pytest.raises(ValueError, match="the registered rule 'half' takes alpha= alone, not layers= or unit="):
        resolve_rule("half", layers=3)


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        (
            "lca",
            {},
            r"unknown rule 'lca'; choose 'lac' \(with alpha=\), 'fixed' .*, or one that is registered",
        ),
        ("fixed", {}, r"rule='fixed' needs layers="),
        ("lac", {"layers": 3}, r"rule='lac' takes alpha=, not layers="),
        (None, {"alpha": 0.8, "layers": 3}, r"give one of them"),
        (None, {"layers": "3,x"}, r"block indices such as '3;7;-1', got '3,x'"),
        (LAC, {"alpha": 0.5}, r"is a whole rule"),
    ],
)
def test_rules_that_are_none(given: Any, options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        resolve_rule(given, **options)


# --- lengths of padded rows, and sums -------------------------------------------------------------------


def test_rows_are_known_by_their_tokens_also_with_real_zeros_at_the_end():
    requests = [(None, [5, 0], [0, 7]), (None, [5], [9]), (None, [5, 6], [7, 8, 9]), (None, [5, 6], [7, 8, 1])]
    rows = ScoredRows(requests, 100, grouped=True)
    # [5, 0, 0] and [5] look the same on the right of a batch: the longer comes first.
    lengths, prompts = rows.take(torch.tensor([[5, 6, 7, 8], [5, 0, 0, 0]]))
    assert (lengths.tolist(), prompts.tolist()) == ([4, 3], [2, 2])
    lengths, prompts = rows.take(torch.tensor([[5]]))
    assert (lengths.tolist(), prompts.tolist()) == ([1], [1])
    with pytest.raises(RuntimeError, match=r"a row that none of its requests makes.*lm-eval 0\.4"):
        rows.take(torch.tensor([[5]]))


def test_rows_are_cut_on_the_left_and_may_come_twice():
    requests = [(None, [1, 2, 3, 4], [5, 6]), (None, [1, 2, 3, 4], [5, 6])]
    rows = ScoredRows(requests, 3, grouped=False)
    lengths, prompts = rows.take(torch.tensor([[3, 4, 5], [3, 4, 5]]))
    assert (lengths.tolist(), prompts.tolist()) == ([3, 3], [2, 2])


def test_sums_are_those_of_a_slow_loop():
    rng = np.random.default_rng(0)
    usage = Usage.nothing(3)
    tokens, active, depth, scored, early = [0, 0], np.zeros((2, 3)), [0.0, 0.0], 0, 0
    for _ in range(4):
        voids, kept = rng.random((3, 2, 5)) < 0.5, rng.random((2, 5)) < 0.8
        position = np.arange(5) - np.array([[2], [4]])
        usage.add(voids, kept, position)
        for row, column in np.argwhere(kept):
            phase = int(position[row, column] >= 0)
            on = [layer for layer in range(3) if not voids[layer, row, column]]
            tokens[phase] += 1
            active[phase, on] += 1
            depth[phase] += (on[-1] + 1) / 3 if on else 0
            if position[row, column] >= -1:
                scored += 1
                early += 2 not in on
    assert usage.tokens.tolist() == tokens
    assert (usage.active == active).all()
    np.testing.assert_allclose(usage.depth, depth)
    assert (usage.scored, usage.early) == (scored, early)


# --- the command ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.once
def test_the_command_prints_a_table_and_writes_json(
    folder: Path, tmp_path: Path, task: Callable[..., dict[str, Any]], quiet: None
):
    import typer
    from typer.testing import CliRunner

    from lacscope.cli._harness import lm_eval_command

    # YAML reads JSON.
    (tmp_path / "own.yaml").write_text(json.dumps(task("choice")))
    app = typer.Typer()
    app.command()(lm_eval_command)
    out = tmp_path / "deep" / "scores.json"
    words = [str(folder), "--tasks", "own_choice", "--include-path", str(tmp_path), "--limit", "3", "--out", str(out)]
    result = CliRunner().invoke(app, [*words, "--alpha", "0.8", "--effect", "bypass"])
    assert result.exception is None, result.output
    written = json.loads(out.read_text())
    assert written["lacscope"]["usage"]["own_choice"]["scored"] == 16
    share = written["lacscope"]["usage"]["own_choice"]["usage"]["prefill"]
    assert "own_choice" in result.stdout
    assert f"{share:.1%}" in result.stdout
    assert "samples" not in written
    assert [path.name for path in out.parent.iterdir()] == ["scores.json"]
    refused = CliRunner().invoke(app, [*words, "--force", "--effect", "bypass"])
    assert "effect='bypass' needs a halting rule" in str(refused.exception)


@pytest.fixture
def quiet() -> Iterator[None]:
    """The command quiets libraries for its process: put back for the other tests."""
    import logging

    from datasets.utils.logging import enable_progress_bar
    from transformers.utils import logging as transformers_logging

    level, verbosity = logging.getLogger("lm_eval").level, transformers_logging.get_verbosity()
    yield
    logging.getLogger("lm_eval").setLevel(level)
    transformers_logging.set_verbosity(verbosity)
    transformers_logging.enable_progress_bar()
    enable_progress_bar()


# --- the demo model -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.once
def test_the_pocket_set_on_the_demo_model(task: Callable[..., dict[str, Any]]):
    from transformers import AutoTokenizer

    rows = [
        {"text": f"{item.passage}\nQuestion: {item.question}\nAnswer:", "choices": ["no, it is not", "yes"]}
        | {"right": int(bool(item.answer))}
        for item in load_pocket("yes_no")[:4]
    ]
    options = {"until": ["\n", "."], "max_gen_toks": 6, "do_sample": False}
    tasks = [task("choice", rows), task("until", rows, generation_kwargs=options)]
    model = load_model("smollm2-135m-instruct", hooks="residual")
    for one in tasks:
        own = lm_evals_own(model.original_model.name_or_path, [one], 4)
        assert answers(run(model, [one], batch_size=4)) == answers(own)
        assert answers(run(model, [one], batch_size=4, rule=LAC)) == answers(own)
    alone = run(model, tasks[:1], rule=LAC, effect="bypass")
    batched = run(model, tasks[:1], rule=LAC, effect="bypass", batch_size=4)
    for sample, other in zip(answers(alone)["own_choice"], answers(batched)["own_choice"], strict=True):
        np.testing.assert_allclose([r[0][0] for r in sample], [r[0][0] for r in other], rtol=1e-4)
    # As ids: TransformerLens's tokenizer would prepend BOS to a text, lm-eval does not.
    tokenizer = AutoTokenizer.from_pretrained(model.original_model.name_or_path)
    prompts = tokenizer([row["text"] for row in rows])["input_ids"]
    replies = tokenizer([" no, it is not"] * len(rows))["input_ids"]
    traced = trace(model, prompts, responses=replies, rule=LAC, effect="bypass", measures=["surprisal"])
    expected = -traced.surprisal.where(traced.valid & (traced.phase == "decode")).sum("token").values
    found = [sample[0][0][0] for sample in answers(alone)["own_choice"]]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
