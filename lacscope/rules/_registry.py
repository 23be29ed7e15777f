"""Rules under the names that a command line gives them: a script's, and those of installed packages."""

from collections.abc import Callable
from dataclasses import dataclass

from lacscope.guards._arguments import text
from lacscope.guards._registry import Registry
from lacscope.rules._base import HaltingRule
from lacscope.rules._lac import L2AdaptiveComputation


@dataclass(frozen=True)
class NamedRule:
    """A rule by name.

    Args:
        name: the name on the command line.
        make: a function that makes the rule, of alpha where one is given.
    """

    name: str
    make: Callable[..., HaltingRule]


RULES: Registry[NamedRule] = Registry(
    "rule", lambda: [NamedRule("lac", lambda alpha=0.8: L2AdaptiveComputation(alpha))], name_of=lambda one: one.name
)


def register(name: str, make: Callable[..., HaltingRule]) -> Callable[..., HaltingRule]:
    """Make a rule of yours known by a name, to ``lacscope lm-eval --rule`` and :func:`lacscope.harness.evaluate`.

    The command line meets it where an installed package registers it: the package's entry point of the group
    ``lacscope`` names the module that does. A name registered again, as by a notebook's cell, replaces the former.

    Args:
        name: letters, digits, ``_``, ``-`` and ``.``.
        make: the rule's class, or a function that makes it. It is called with ``--alpha`` where that is given, else
            with nothing.

    Returns:
        ``make``, so that a class can be registered by a decorator of one's own.

    Raises:
        ValueError: a name that is taken or cannot be typed, or what makes no rule.

    >>> from lacscope.rules import ContiguousBlock
    >>> register("middle", lambda: ContiguousBlock(10, 5))().n
    5
    """
    text("name", name)
    if not callable(make):
        raise ValueError(f"make is a rule's class or a function that makes one, got {make!r:.80}.")
    RULES.register(NamedRule(name, make))
    return make


def rule(name: str, alpha: float | None = None) -> HaltingRule:
    """The rule of this name, made.

    Raises:
        ValueError: a name that is not registered, or one whose rule cannot be made of what is given.
    """
    make = RULES.named(name).make
    try:
        made = make() if alpha is None else make(alpha)
    except TypeError as error:
        given = "nothing" if alpha is None else f"alpha {alpha:g}"
        raise ValueError(f"the rule {name!r} cannot be made of {given}: {error}") from error
    if not isinstance(made, HaltingRule):
        raise ValueError(f"what is registered as the rule {name!r} makes a {type(made).__name__}, which is no rule.")
    return made
