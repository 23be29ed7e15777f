"""What a model is, to an editor and a type checker: a ``TransformerBridge`` or a ``HookedTransformer``."""

from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Model(Protocol):
    """A model of TransformerLens: what :func:`lacscope.load_model` returns and every measure takes.

    Both classes of TransformerLens have these members and many more. They are typed loosely: the classes agree in how
    they are used, not in every detail of a signature.

    >>> from lacscope.testing import tiny_model
    >>> isinstance(tiny_model(), Model), isinstance("gpt2", Model)
    (True, False)
    """

    @property
    def cfg(self) -> Any:
        """The configuration: ``n_layers``, ``d_model``, ``d_vocab`` and more."""

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of transformers, or None."""

    @property
    def hook_dict(self) -> Any:
        """Every hook point by its name."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """One forward pass."""

    def to_tokens(self, *args: Any, **kwargs: Any) -> Any:
        """Token ids of a text."""

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """A text and what the model says after it."""

    def hooks(self, *args: Any, **kwargs: Any) -> Any:
        """A context in which hooks of yours act; lacscope's calls inside it see what they change."""

    def run_with_hooks(self, *args: Any, **kwargs: Any) -> Any:
        """One forward pass with hooks of yours."""

    def run_with_cache(self, *args: Any, **kwargs: Any) -> Any:
        """One forward pass, with the activations at the hook points."""
