"""GGUF files converted to float32 safetensors: once for each file, kept in a cache."""

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

from lacscope.models._gguf_metadata import (
    ROPE_TENSORS,
    GgufError,
    GgufFile,
    apply_metadata,
    control_ids,
    read_gguf,
    stop_ids,
)
from lacscope.models._load_errors import ModelLoadError, in_brief
from lacscope.models.adapters._gguf_tensors import unread_tensors

CONVERTER_VERSION = 2


def cache_folder() -> Path:
    """Where converted weights are kept: $LACSCOPE_CACHE, else $XDG_CACHE_HOME/lacscope, else ~/.cache/lacscope."""
    if chosen := os.environ.get("LACSCOPE_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "lacscope"


def converted(gguf: Path) -> Path:
    """Folder with the file's weights as float32 safetensors, converted once and kept.

    Two processes may convert at once: each writes its own temporary folder, and the first rename wins.
    """
    import transformers

    key = f"{_sha256(gguf)[:16]}-transformers-{transformers.__version__}-v{CONVERTER_VERSION}"
    target = cache_folder() / f"{gguf.stem}-{key}"
    if target.is_dir():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".partial"))
        try:
            convert(gguf, temporary)
            try:
                temporary.rename(target)
            except OSError:
                if not target.is_dir():
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise ModelLoadError(
            f"could not keep the converted weights in {target.parent} ({error.strerror or error}). "
            "Free some space or set LACSCOPE_CACHE to another folder."
        ) from error
    return target


def convert(gguf: Path, folder: Path) -> None:
    """Write a GGUF file's model and tokenizer as transformers saves them; ModelLoadError where that is not exact."""
    try:
        file = read_gguf(gguf)
        model = _model(gguf, file)
        tokenizer = _tokenizer(gguf)
    except (GgufError, OSError) as error:
        raise ModelLoadError(
            f"{gguf} cannot be read as GGUF: {error}. The model's original folder or hub id loads without this."
        ) from error
    except Exception as error:
        raise ModelLoadError(f"{gguf} cannot be read as GGUF: {in_brief(error)}.") from error
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _mark_control_tokens(tokenizer, file, folder)


def _model(gguf: Path, file: GgufFile) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(gguf.parent, gguf_file=gguf.name)
    apply_metadata(file, config)
    auto_class: Any = AutoModelForCausalLM  # its stubs know nothing of output_loading_info
    model, report = auto_class.from_pretrained(
        gguf.parent, gguf_file=gguf.name, config=config, dtype=torch.float32, output_loading_info=True
    )
    if missing := sorted(report["missing_keys"]):
        raise GgufError(f"it has no weights for {len(missing)} of the model's parameters ({missing[0]} ...)")
    unread = [name for name in unread_tensors(file.architecture, file.kinds, model) if name not in ROPE_TENSORS]
    unread += [str(name) for name in sorted(report["unexpected_keys"])]
    if unread:
        raise GgufError(f"transformers passes over {len(unread)} of its tensors ({unread[0]} ...)")
    # The weights are dequantised by now; transformers refuses to save a model that says it is quantised.
    vars(model).pop("hf_quantizer", None)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    if file.quantization:
        model.config.gguf_quantization = file.quantization
    ends = stop_ids(file)
    if model.generation_config is not None and ends:
        model.generation_config.eos_token_id = ends[0] if len(ends) == 1 else ends
    return model


def _tokenizer(gguf: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)


def _mark_control_tokens(tokenizer: Any, file: GgufFile, folder: Path) -> None:
    """Make each of the file's control tokens special in the saved tokenizer, under the id that it has in the file.

    transformers leaves out those that a byte-level vocabulary does not spell byte by byte (DeepSeek's), or adds them
    once more under ids that the model has no embedding for.
    """
    tokens, path = file.fields["tokenizer.ggml.tokens"], folder / "tokenizer.json"
    known = tokenizer.added_tokens_decoder
    wrong = [i for i in control_ids(file) if i not in known or not known[i].special or known[i].content != tokens[i]]
    if not wrong or not path.is_file():
        return
    saved = json.loads(path.read_text(encoding="utf-8"))
    vocabulary = saved["model"].get("vocab")
    if isinstance(vocabulary, dict):
        spelled = {i: token for token, i in vocabulary.items()}
        for i in wrong:
            del vocabulary[spelled[i]]
        vocabulary.update({tokens[i]: i for i in wrong})
    texts = {tokens[i] for i in wrong}
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    kept = [one for one in saved["added_tokens"] if one["content"] not in texts and one["id"] not in wrong]
    added = [{"id": i, "content": tokens[i], **plain} for i in wrong]
    saved["added_tokens"] = sorted([*kept, *added], key=lambda one: one["id"])
    path.write_text(json.dumps(saved, ensure_ascii=False), encoding="utf-8")


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
