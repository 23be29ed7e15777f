"""What an analysis reads: questions with their right answers, long passages of a text."""

import gzip
import json
from dataclasses import dataclass

import pytest

from lacscope.analyze._passages import LONG_PASSAGE
from lacscope.analyze._prompts import STYLE, Prompts, PromptsError, task_prompts, text_prompts
from lacscope.model_measures import CSORDAS_PROMPT_FORMAT
from lacscope.tasks._boolq import BoolQ
from lacscope.tasks._data import DataError
from lacscope.tasks._registry import TASKS

pytestmark = pytest.mark.once

LONG = [" ".join(["river", word] * 60) for word in ("deep", "cold", "wood")]


def boolq(folder, n):
    path = folder / "boolq.jsonl"
    rows = [
        {"question": f"is it {'deep' if i % 2 else 'cold'}", "passage": f"river {i}", "answer": i % 2 == 0}
        for i in range(n)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_questions_of_two_tasks_with_their_right_answers(tiny_with_tokenizer, tmp_path):
    found = task_prompts(
        tiny_with_tokenizer, ["boolq", "pocket_options"], data={"boolq": boolq(tmp_path, 6)}, limit=2, seed=1
    )
    assert (found.name, len(found)) == ("boolq, pocket_options", 4)
    assert found.tasks == ("boolq", "boolq", "pocket_options", "pocket_options")
    assert found.task_names == ["boolq", "pocket_options"]
    assert [one.sample for one in found.of_task("boolq")] == [one.sample for one in found.questions[:2]]
    tokenizer = tiny_with_tokenizer.tokenizer
    for ids, answer, question in zip(found.inputs, found.responses, found.questions, strict=True):
        assert question.chat
        assert tokenizer.decode(ids).startswith("<s> user")
        assert tokenizer.decode(ids).endswith("<s> assistant")
        wanted = tokenizer(question.choices[question.target], add_special_tokens=False)["input_ids"]
        assert list(answer) == [i for i in wanted if i != tokenizer.bos_token_id]
    assert found.whole[0] == [*found.inputs[0], *found.responses[0]]


def test_the_sample_depends_on_the_seed_and_a_smaller_one_is_part_of_it(tiny_with_tokenizer, tmp_path):
    def samples(limit, seed):
        found = task_prompts(
            tiny_with_tokenizer, ["boolq"], data={"boolq": boolq(tmp_path, 20)}, limit=limit, seed=seed
        )
        return [one.sample for one in found.questions]

    assert samples(5, 0) == samples(5, 0) != samples(5, 1)
    assert set(samples(3, 0)) < set(samples(5, 0))
    assert samples(None, 0) == list(range(20))


def test_an_unknown_task_and_a_missing_file(tiny_with_tokenizer, tmp_path):
    with pytest.raises(ValueError, match="there is no task 'bool'; choose one of boolq"):
        task_prompts(tiny_with_tokenizer, ["bool"], data={}, limit=2)
    with pytest.raises(DataError, match=r"there is no file .*no\.csv"):
        task_prompts(tiny_with_tokenizer, ["boolq"], data={"boolq": tmp_path / "no.csv"}, limit=2)


@pytest.mark.parametrize("name", ["wiki.txt", "wiki.txt.gz"])
def test_long_lines_of_a_text(name, tiny_with_tokenizer, tmp_path):
    raw = "\n".join(["= Heading =", LONG[0], "", "short line", f"  {LONG[1]} ", LONG[2]]).encode()
    path = tmp_path / name
    path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    found = text_prompts(tiny_with_tokenizer, path, limit=None, max_tokens=9)
    assert found.name == "wiki.txt, first 9 tokens of a passage"
    assert (found.responses, found.questions, found.max_tokens) == (None, (), 9)
    tokenizer = tiny_with_tokenizer.tokenizer
    assert [tokenizer.decode(ids) for ids in found.inputs] == [
        "<s> " + " ".join(["river", word] * 4) for word in ("deep", "cold", "wood")
    ]
    assert found.whole == [list(ids) for ids in found.inputs]
    (one,) = text_prompts(tiny_with_tokenizer, path, limit=1, seed=3).inputs
    assert len(one) == 121
    assert text_prompts(tiny_with_tokenizer, path, limit=1).name == "wiki.txt"


def test_a_text_without_long_lines(tiny_with_tokenizer, tmp_path):
    path = tmp_path / "short.txt"
    path.write_text("river " * (LONG_PASSAGE // 6) + "\n")  # 396 characters once stripped
    with pytest.raises(PromptsError, match=r"short\.txt has no line of 400 characters or more, and no such"):
        text_prompts(tiny_with_tokenizer, path, limit=2)


def test_a_part_keeps_what_belongs_together(toy):
    part = toy.part(1, 3)
    assert (part.name, len(part), part.inputs) == ("toy", 2, toy.inputs[1:])
    assert (part.responses, part.questions, part.tasks) == (toy.responses[1:], toy.questions[1:], toy.tasks[1:])
    assert part.whole == toy.whole[1:]
    assert Prompts("text", ((1, 2), (3, 4))).part(1, 2).responses is None


def test_questions_are_asked_plainly_as_in_a_reproduction(tiny_with_tokenizer, tmp_path):
    assert all(STYLE in task.styles for task in TASKS.values())
    path = tmp_path / "arc.jsonl"
    path.write_text(json.dumps({"question": "is it", "choices": ["deep", "cold"], "answer": 1}))
    (question,) = task_prompts(tiny_with_tokenizer, ["arc_easy"], data={"arc_easy": path}, limit=None).questions
    assert (question.prompt, question.choices) == ("Question: is it\nAnswer:", (" deep", " cold"))


def test_a_task_of_a_users_own_is_asked_in_its_first_style(tiny_with_tokenizer, tmp_path, monkeypatch):
    @dataclass(frozen=True)
    class Own(BoolQ):
        name: str = "own"
        styles: tuple[str, ...] = ("paper",)

    monkeypatch.setattr(TASKS, "_added", {"own": Own()})
    read = task_prompts(tiny_with_tokenizer, ["own"], data={"own": boolq(tmp_path, 1)}, limit=None)
    assert read.prompt_format == "chat template in style paper"


def test_a_papers_style_is_taken_where_a_task_has_it_and_the_form_is_said(tiny_with_tokenizer, tmp_path):
    path = tmp_path / "gsm8k.jsonl"
    path.write_text(json.dumps({"question": "is it deep", "answer": "river <<1+1=2>>2\n#### 2"}))
    data = {"gsm8k": path, "boolq": boolq(tmp_path, 2)}
    plain = task_prompts(tiny_with_tokenizer, ["gsm8k"], data=data, limit=None)
    styled = task_prompts(tiny_with_tokenizer, ["gsm8k"], data=data, limit=None, style="csordas")
    assert plain.prompt_format == "chat template in style plain"
    assert styled.prompt_format == CSORDAS_PROMPT_FORMAT
    assert styled.questions[0].choices == ("river <<1+1=2>>2\nThe final answer is 2",)
    assert styled.inputs != plain.inputs
    both = task_prompts(tiny_with_tokenizer, ["gsm8k", "boolq"], data=data, limit=1, style="csordas")
    assert both.prompt_format == f"gsm8k: {CSORDAS_PROMPT_FORMAT}; boolq: chat template in style plain"
    assert both.part(0, 1).prompt_format == both.prompt_format


def test_each_question_once():
    toy = Prompts("toy", ((1, 2), (3,), (1, 2), (1, 2)), ((9,), (9,), (9,), (8,)), tasks=tuple("abab"))
    found = toy.distinct()
    assert (found.inputs, found.responses, found.tasks) == (((1, 2), (3,), (1, 2)), ((9,), (9,), (8,)), tuple("abb"))


def test_every_fourth_of_each_benchmark_and_the_others_without_repeats():
    inputs = (*((i,) for i in range(11)), (0,))
    taken, others = Prompts("toy", inputs, tasks=("a",) * 7 + ("b",) * 5).apart(4)
    assert taken.inputs == ((0,), (4,), (7,), (0,))
    assert others.inputs == tuple((i,) for i in (1, 2, 3, 5, 6, 8, 9, 10))
    assert others.tasks == ("a",) * 5 + ("b",) * 3
    text_taken, text_others = Prompts("text", ((1,), (2,))).apart(4)
    assert (text_taken.inputs, text_others.inputs) == (((1,),), ((2,),))
