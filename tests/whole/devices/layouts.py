"""The tiny model put on devices as accelerate puts a large one."""

import functools
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from lacscope.models.adapters import build_bridge
from lacscope.testing import tiny_transformers_model

WORDS = ("the", "river", "rises", "in", "a", "wood", "is", "it", "deep", "cold")


ONE = dict.fromkeys(("embed", "0", "1", "2", "3", "head"), "gpu:0")
HERE = dict.fromkeys(ONE, "cpu")
TWO = ONE | dict.fromkeys(("2", "3", "head"), "gpu:1")


@dataclass(frozen=True)
class Layout:
    """Where the parts of the model are: the embedding, each layer, the head, and the last norm if not beside the head.

    ``float64=False``: on a GPU that has no such numbers. ``slow``: for the slow tests.
    """

    places: Mapping[str, str]
    full: bool = True
    float64: bool = True
    architecture: str = "llama"
    slow: bool = True


LAYOUTS = {
    "one GPU": Layout(ONE, full=False),
    "one GPU without float64": Layout(ONE, float64=False),
    "two GPUs": Layout(TWO, full=False),
    "two GPUs, every hook": Layout(TWO, slow=False),
    "two GPUs, head beside the embedding": Layout(TWO | {"head": "gpu:0"}),
    "two GPUs, embedding apart": Layout(ONE | {"embed": "gpu:1"}),
    # A head that is the embedding's own matrix is beside it, and the norm beside the last layer: as accelerate has it.
    "two GPUs, GPT-2": Layout(TWO | {"head": "gpu:0", "norm": "gpu:1"}, architecture="gpt2"),
    "two GPUs, parallel blocks": Layout(TWO, architecture="gpt_neox"),
    "a GPU and layers lent by the CPU": Layout(ONE | {"1": "cpu", "2": "cpu"}),
    "a GPU and an embedding lent by the CPU": Layout(ONE | {"embed": "cpu", "3": "cpu"}, full=False),
    "disk": Layout(HERE | {"1": "disk", "2": "disk"}),
    "disk, embedding and head": Layout(HERE | {"embed": "disk", "head": "disk", "0": "disk"}),
}


def bridged(hf_model: Any, *, full: bool) -> Any:
    return build_bridge(hf_model, _tokenizer(), name="tiny", residual_only=not full)


def on_cpu(architecture: str, n_layers: int, *, full: bool) -> Any:
    """What every other layout is compared with."""
    return bridged(tiny_transformers_model(architecture, n_layers=n_layers), full=full)


def spread(architecture: str, places: Mapping[str, str], *, full: bool, folder: str | None = None) -> Any:
    """The same model with its parts at ``places``, keyed by ``embed``, ``norm``, ``head`` and a layer's number.

    A place is a device, or ``disk`` (in ``folder``); ``cpu`` beside a GPU is kept on the CPU and lent to the GPU.
    """
    from accelerate import dispatch_model

    hf_model = tiny_transformers_model(architecture, n_layers=sum(map(str.isdigit, places)))
    keys = getattr(hf_model, "_skip_keys_device_placement", None)
    placed = dispatch_model(
        hf_model, _device_map(hf_model, places), offload_dir=folder, skip_keys=keys, force_hooks=True
    )
    return bridged(placed, full=full)


def _device_map(hf_model: Any, places: Mapping[str, str]) -> dict[str, str]:
    """Every module that accelerate asks for, with the place of the part that it belongs to."""
    inner = hf_model.base_model
    prefix = hf_model.base_model_prefix
    found = {}
    for name, child in inner.named_children():
        if isinstance(child, nn.ModuleList):
            found |= {f"{prefix}.{name}.{layer}": places[str(layer)] for layer in range(len(child))}
        else:
            part = "norm" if "norm" in name or name == "ln_f" else "embed"
            found[f"{prefix}.{name}"] = places.get(part, places["head"])
    head = next(name for name, child in hf_model.named_children() if child is not inner)
    return found | {head: places["head"]}


@functools.cache
def _tokenizer() -> Any:
    """One token a word: booting a model reads a tokenizer from its folder again, to have it prepend BOS."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    known = ["<pad>", "<s>", "</s>", "<unk>", *WORDS]
    known += ["x" * i for i in range(1, 98 - len(known))]  # so that whatever the model generates is text
    words = Tokenizer(WordLevel({word: i for i, word in enumerate(known)}, unk_token="<unk>"))
    words.pre_tokenizer = WhitespaceSplit()
    made = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    folder = tempfile.mkdtemp()
    made.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)
