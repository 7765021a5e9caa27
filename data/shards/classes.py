"""Classes of one set held to those of another, by name: held-out samples, mixtures, evaluated codes and samples."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from data.shards.index import ShardIndex
from launch.command.checks import named
from launch.command.cli import UserError


def label_map(own: Sequence[str], classes: Sequence[str], what: str, of: str = "the training") -> tuple[int, ...]:
    """For each of a set's own classes its number among `classes`; empty where both lists are the same.

    `what` and `of` name the two sets in the UserError, which names classes that only the first set has, or has several
    times.
    """
    own, classes = list(own), list(classes)
    if own == classes:
        return ()
    if not own:
        raise UserError(
            f"{what} has no classes, {of} has {len(classes)} ({named(classes)}): give one that is labelled with them"
        )
    if not classes:
        raise UserError(f"{what} has classes ({named(own)}), {of} has none: give one without, or labels for both")
    if odd := [name for name in own if name not in classes]:
        raise UserError(
            f"{what} has classes that {of} has not: {named(odd)}; {of} has {named(classes)}: give one of these classes"
        )
    if unclear := [name for name in dict.fromkeys(own) if classes.count(name) > 1]:
        raise UserError(
            f"{what} has {named(unclear)}, which {of} has several times, and the lists of classes differ: give both "
            "the same list"
        )
    return tuple(map(classes.index, own))


def held_to(
    index: ShardIndex,
    classes: Sequence[str],
    what: str,
    of: str = "the training",
    say: Callable[[str], None] | None = None,
) -> ShardIndex:
    """The index with its labels as numbers among `classes`; `say` is told where they have to be translated.

    UserError as `label_map`.
    """
    if index.labels:  # translated already
        return index
    labels = label_map(index.classes, classes, what, of)
    if not labels:
        return index
    if say is not None:
        say(f"{what}: its classes ({named(index.classes)}) are matched by name with the {len(classes)} of {of}")
    return replace(index, classes=list(classes), labels=labels)
