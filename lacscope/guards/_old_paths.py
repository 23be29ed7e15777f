"""Import paths from before the rooms, which stay until 1.0."""

import importlib
import sys


def old_modules(old: str, **names_by_room: str) -> None:
    """Have ``old.x`` be the module ``_x`` of the room it went to; rooms below lacscope, dots written as ``__``."""
    for room, names in names_by_room.items():
        for name in names.split():
            module = importlib.import_module(f"lacscope.{room.replace('__', '.')}._{name}")
            sys.modules[f"{old}.{name}"] = module
