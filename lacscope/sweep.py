"""The old name of ``lacscope.reproduction.sweep``, until 1.0."""

from lacscope.guards._old_paths import old_modules

old_modules(__name__, {"lacscope.reproduction.sweep": "conditions parts processes reduce runner scoring spec store"})
