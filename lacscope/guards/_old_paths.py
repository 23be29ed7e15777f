"""Import paths from before the rooms, which stay until 1.0."""

import importlib
import sys
from collections.abc import Mapping


def old_modules(old: str, names_by_room: Mapping[str, str]) -> None:
    """Have ``old.x`` be the module ``_x`` of the room that it went to, or ``_y`` where it is written ``x=y``."""
    for room, names in names_by_room.items():
        for name in names.split():
            before, _, now = name.partition("=")
            sys.modules[f"{old}.{before}"] = importlib.import_module(f"{room}._{now or before}")
