"""Codes held to what a prior is trained on: the same source, its classes by name, captions where it needs them."""

from collections.abc import Callable, Sequence

from data.shards.classes import held_to
from data.shards.identity import set_name
from data.shards.index import ShardIndex
from launch.command.cli import UserError
from stage2_prior.codes.source import CodeSource


def matched(
    index: ShardIndex,
    source: CodeSource,
    condition: str,
    classes: Sequence[str],
    key: str,
    say: Callable[[str], None] | None = None,
) -> ShardIndex:
    """An index of codes, the value of `key`, as a prior over codes of `source` and `classes` reads it.

    `condition` is the prior's (model.condition). A label means the class of the same name, and `say` is told where its
    number is another one. UserError for codes of another source, for classes that the prior hasn't, and for codes
    without the labels or captions that it is conditioned on.
    """
    place = index.path or set_name(index)
    source.must_equal(CodeSource.of_index(index, place, key), key, place)
    what = f"{key}={place}"
    if condition == "text" and not index.meta.get("captions"):
        raise UserError(
            f"{what} has no captions, which the prior is conditioned on: pack the pictures with theirs and encode them "
            "again"
        )
    return held_to(index, classes, what, "the prior", say) if condition == "class" and classes else index
