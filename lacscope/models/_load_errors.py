"""What goes wrong while a model is loaded."""


class ModelLoadError(RuntimeError):
    """A model that could not be found or read; the message says what to do."""


def in_brief(error: BaseException) -> str:
    """An error of a dependency as half a sentence: its kind and its first line, cut where it runs on."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0].rstrip(".") if lines else "no reason given"
    if len(text) > 200:
        text = text[:200].rsplit(" ", 1)[0] + " ..."
    return f"{type(error).__name__}: {text}"
