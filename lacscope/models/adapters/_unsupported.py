"""The refusal of a model, or of a library, that lacscope cannot work with."""


class UnsupportedModelError(RuntimeError):
    """A model that cannot be measured, or run, the way that was asked; the message says what is wrong."""
