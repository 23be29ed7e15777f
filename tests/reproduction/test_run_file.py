"""A run as a file: what is written is read back, and what describes no run is refused with file and key."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from lacscope.guards._text_files import TextFileError
from lacscope.reproduction._presets import PRESETS
from lacscope.reproduction._run_file import Recipe, RunFileError, keep_run, read_run
from lacscope.reproduction._settings import ReproductionSettings

pytestmark = pytest.mark.once

ODD = 'a "b" \\ \n\t\x00\x7f é \U0001f600 ] # ='
OTHER = ReproductionSettings(
    alphas=(0.0, 1e-07, 3.0, 1e16),
    effects=("bypass",),
    style="plain",
    shots=2,
    limit=7,
    seed=2**70,
    generate_alphas=(),
    generate_limit=3,
    max_new_tokens=5,
    temperature=1.0,
    top_p=0.25,
    control_alphas={"bypass": (3.0,), "readout": ()},
    control_limit=4,
    control_seeds=(5, 1),
    batch_size=3,
    shard_size=2,
    keep_text=False,
    keep_traces=True,
    chat_template_kwargs={ODD: [None, {"x": 0.5, "y": True}], "enable_thinking": False},
)


def test_other_differs_from_the_defaults_in_every_setting() -> None:
    """So that a setting which is not written, or not read, is seen."""
    default = vars(ReproductionSettings())
    assert not [name for name, value in vars(OTHER).items() if value == default[name]]


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(models=("m",), tasks=("boolq",)),
        *PRESETS.values(),
        Recipe((ODD, "org/name"), ("b.q", "a-b"), "bfloat16", "cuda:1", "auto", settings=OTHER),
    ],
    ids=["defaults", *PRESETS, "other"],
)
def test_what_is_written_is_read_back(tmp_path: Path, recipe: Recipe) -> None:
    files = {name: tmp_path / f"{name} é.csv" for name in recipe.tasks}
    here = replace(recipe, out=tmp_path / "out", data=files, shots_data=files)
    here.out.mkdir()
    path = keep_run(here)
    assert path == tmp_path / "out" / "run.toml"
    assert read_run(path) == here


def test_a_file_edited_by_hand_is_kept_and_another_run_gets_its_own(tmp_path: Path) -> None:
    run = Recipe(("m",), ("boolq",), out=tmp_path)
    by_hand = 'models = ["m"] # mine\ntasks = ["boolq"]\nout = "."\n'
    (tmp_path / "run.toml").write_text(by_hand)
    assert keep_run(run).name == "run.toml"
    assert keep_run(replace(run, models=("n",))).name == "run-2.toml"
    (tmp_path / "run-2.toml").write_text("damaged")
    assert keep_run(replace(run, models=("n",))).name == "run-3.toml"
    assert (tmp_path / "run.toml").read_text() == by_hand
    assert (tmp_path / "run-2.toml").read_text() == "damaged"


def test_paths_are_the_files_and_names_are_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "model").mkdir()
    path = tmp_path / "here" / "r.toml"
    path.write_text('models = ["../model", "org/name"]\ntasks = ["a"]\nout = "o"\n[data]\na = "x.csv"\n')
    monkeypatch.chdir(tmp_path / "model")
    run = read_run(Path("../here/r.toml"))
    assert run.models == (str(tmp_path / "model"), "org/name")
    assert (run.out, run.data) == (tmp_path / "here" / "o", {"a": tmp_path / "here" / "x.csv"})


def test_whole_numbers_are_alphas_and_temperatures_too(unchecked: None, tmp_path: Path) -> None:
    """A run's id is made of them, and 1 is written otherwise than 1.0."""
    path = tmp_path / "r.toml"
    path.write_text(
        "[settings]\nalphas = [0, 1]\ngenerate_alphas = []\ncontrol_alphas = {}\ntemperature = 1\ntop_p = 1"
    )
    settings = read_run(path).settings
    assert repr([settings.alphas, settings.temperature, settings.top_p]) == "[(0.0, 1.0), 1.0, 1.0]"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "alpha = 1",
            "unknown key 'alpha'; it has models, tasks, dtype, device, device_map, out, data, shots_data, set",
        ),
        ("model = 'm'", "Did you mean 'models'?"),
        ("models = 'm'", "models must be a list of names, got 'm'."),
        ("models = [1]", "models[0] must be text, got 1."),
        ("tasks = ['a', 2020-01-01]", "tasks[1] must be text, got datetime.date(2020, 1, 1)."),
        ("dtype = 'float12'", "unknown dtype 'float12'; choose one of 'float32'"),
        ("device = 0", "device must be text, got 0."),
        ("device_map = {}", "device_map must be text, got {}."),
        ("out = true", "out must be text, got True."),
        ("data = 'x.csv'", "data must be a table, as [data]; got 'x.csv'."),
        ("tasks = ['boolq']\n[data]\nbool = 'x'", "unknown task in data 'bool'; choose one of 'boolq'."),
        ("tasks = ['a']\n[shots_data]\na = 1", "shots_data.a must be text, got 1."),
        ("settings = 1", "settings must be a table, as [settings]; got 1."),
        ("[settings]\nalfas = [1]", "unknown key of settings 'alfas'; it has alphas, effects"),
        ("[settings]\nalphas = 0.8", "alphas must be a list of numbers >= 0, got 0.8."),
        ("[settings]\nalphas = [0.8, '1']", "alphas[1] must be a number >= 0, got '1'."),
        ("[settings]\nalphas = [nan]", "alphas[0] must be a finite number >= 0, got nan."),
        (f"[settings]\nalphas = [1{'0' * 400}]", "alphas[0] must be a finite number >= 0, got 1000"),
        ("[settings]\nlimit = '3'", "limit must be a whole number, at least 1, got '3'."),
        ("[settings]\ntemperature = '0'", "temperature must be a finite number >= 0 (0 is greedy), got '0'."),
        ("[settings]\nchat_template_kwargs = 'on'", "chat_template_kwargs must be {name: value}, got 'on'."),
        ("[settings]\ncontrol_alphas.readout = 0.8", "control_alphas['readout'] must be a list of numbers >= 0"),
        ("[settings]\nkeep_text = 'no'", "keep_text must be True or False, got 'no'."),
    ],
)
def test_what_describes_no_run_is_refused_with_file_and_key(
    unchecked: None, tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "r.toml"
    path.write_text(text)
    with pytest.raises(RunFileError, match=re.escape(message)) as raised:
        read_run(path)
    assert str(raised.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    "content", [b"models = [", b"a = 1\na = 2", b"x = 'a\x00b'", b"x = " + b"[" * 5000, b"\xef\xbb\xbf{"]
)
def test_what_is_no_toml_is_refused_with_its_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "r.toml"
    path.write_bytes(content)
    with pytest.raises(RunFileError, match=r"r\.toml is not TOML \("):
        read_run(path)


def test_a_file_that_is_not_utf8_is_refused_with_its_row(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_bytes(b"models = []\ntasks = ['\xff']\n")
    with pytest.raises(TextFileError, match=r"r\.toml, row 2: byte 11 \(0xff\) is not UTF-8"):
        read_run(path)


def test_a_path_that_is_not_utf8_does_not_end_a_run(tmp_path: Path) -> None:
    out = tmp_path / "o\udcff"
    out.mkdir()
    path = keep_run(Recipe(("m",), ("a",), out=tmp_path, data={"a": out / "x.csv"}))
    with pytest.raises(TextFileError, match="is not UTF-8"):
        read_run(path)
