"""Things under a name: those that ship, those that a script registers, and those that installed packages bring."""

import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from lacscope.guards._arguments import did_you_mean
from lacscope.guards._shown import plain

Item = TypeVar("Item")
GROUP = "lacscope"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_tried: set[EntryPoint] = set()


class ExtensionWarning(UserWarning):
    """An installed package that extends lacscope could not be loaded; everything else works."""


class Registry(Mapping[str, Item], Generic[Item]):
    """The things of one kind by name, in the order in which they came.

    An installed package adds to it by an entry point of the group ``lacscope`` that names a module; the module
    registers what it has when it is imported, which is when a name is looked up that nothing else has, or when all
    are listed.

    Args:
        kind: a word for one of the things, for messages.
        shipped: a function that gives lacscope's own, one after the other; they are taken as far as a name asks.
        name_of: the name of a thing.

    >>> colours = Registry("colour", lambda: ["red"], name_of=str)
    >>> colours.register("blue")
    'blue'
    >>> list(colours)
    ['red', 'blue']
    """

    def __init__(self, kind: str, shipped: Callable[[], Iterable[Item]], *, name_of: Callable[[Item], str]) -> None:
        self.kind = kind
        self._name_of = name_of
        self._give_shipped = shipped
        self._to_come: Iterator[Item] | None = None
        self._shipped: dict[str, Item] = {}
        self._added: dict[str, Item] = {}

    def register(self, item: Item) -> Item:
        """Add one, under its own name. One that was added before under this name is replaced, as by a notebook's cell.

        Raises:
            ValueError: a name of lacscope's own, or one that a command line or a file could not carry.
        """
        name = self._name_of(item)
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(
                f"the name of a {self.kind} is made of letters, digits, '_', '-' and '.', and begins with a letter or "
                f"a digit; got {name!r:.80}."
            )
        if name in self._own(name):
            raise ValueError(f"lacscope has a {self.kind} {name!r} of its own: give yours another name.")
        self._added[name] = item
        return item

    def named(self, name: str) -> Item:
        """The thing of this name.

        Raises:
            ValueError: there is none; the message lists those that there are.
        """
        if name not in self:
            raise ValueError(
                f"there is no {self.kind} {name!r}; choose one of {', '.join(self)}.{did_you_mean(name, self)}"
            )
        return self[name]

    def __getitem__(self, name: str) -> Item:
        if name in self._own(name):
            return self._shipped[name]
        if name not in self._added:
            load_extensions()
        return self._added[name]

    def __iter__(self) -> Iterator[str]:
        load_extensions()
        yield from self._own()
        yield from self._added

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _own(self, wanted: str | None = None) -> dict[str, Item]:
        """Lacscope's own, all of them or as far as to the one that is wanted."""
        if wanted in self._shipped:
            return self._shipped
        if self._to_come is None:
            self._to_come = iter(self._give_shipped())
        try:
            for item in self._to_come:
                self._shipped[self._name_of(item)] = item
                if self._name_of(item) == wanted:
                    break
        except BaseException:  # Ctrl-C among the imports: they begin again
            self._to_come = None
            raise
        return self._shipped


def load_extensions() -> None:
    """Import each module that an installed package names under the group ``lacscope``, once.

    What cannot be imported is told as an :class:`ExtensionWarning` that names the package, and left out.
    """
    for point in entry_points(group=GROUP):
        if point in _tried:
            continue
        _tried.add(point)
        try:
            point.load()
        except Exception as error:
            package = point.dist.name if point.dist is not None else "unknown"
            said = plain(f"{type(error).__name__}: {error}")
            warnings.warn(
                f"the package {plain(package)!r} extends lacscope by {plain(point.value)!r}, which cannot be loaded "
                f"({said}); what it brings is missing. Mend or uninstall it.",
                ExtensionWarning,
                stacklevel=2,
            )
