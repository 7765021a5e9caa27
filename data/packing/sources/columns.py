"""Which columns of Parquet files hold pictures, sounds or videos, labels and captions, and that all files have them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.shards.tally import Tally
from launch.command.cli import UserError

SETTINGS = {"pictures": "image_column", "sounds": "audio_column", "videos": "video_column"}
"""The setting that names the column of samples, by their kind."""
_FEATURES = {"pictures": "Image", "sounds": "Audio", "videos": "Video"}
"""What the Hub's metadata call such a column."""
LABELS = ("label", "labels", "class", "fine_label")
"""Columns that are the class where none is named."""


@dataclass(frozen=True)
class Columns:
    """The names of the columns that are read."""

    image: str
    """That of the samples."""
    listed: bool
    """Whether each row has a list of them."""
    label: str | None
    caption: str | None

    def lengths(self, file: Any, group: int) -> np.ndarray:
        """Samples in each row of a row group, int64; read without the samples where they have paths."""
        import pyarrow.compute

        leaves = [file.schema.column(i).path for i in range(len(file.schema))]
        of_image = [leaf for leaf in leaves if leaf.split(".")[0] == self.image]
        leaf = next((leaf for leaf in of_image if not leaf.endswith(".bytes")), self.image)
        column = file.read_row_group(group, columns=[leaf], use_threads=False).column(self.image)
        return np.asarray(pyarrow.compute.list_value_length(column).fill_null(0), dtype=np.int64)


def choose_columns(
    files: Sequence[tuple[Path, Any]],
    image: str | None,
    label: str | None,
    caption: str | None,
    tally: Tally,
    media: str = "pictures",
) -> Columns:
    """The columns, from each file's schema and the settings; "" for `label` is none. `image` names that of the samples.

    UserError where one is missing in a file, occurs twice, or can't be what it is chosen for.
    """
    first, schema = files[0]
    setting = SETTINGS[media]
    candidates = [field.name for field in schema if holds_samples(field.type)]
    if image is None and not candidates:
        types = ", ".join(f"{field.name}: {field.type}" for field in schema)[:300]
        raise UserError(f"source={first} has no column of {media} (it has {types}): name it with --{setting}")
    of_kind = {name: known for name in candidates if (known := hub_kind(schema, name))}
    candidates = [name for name in candidates if of_kind.get(name, media) == media]
    if image is None and not candidates:
        name, other = next(iter(of_kind.items()))
        raise UserError(f"source={first} has no column of {media}, but {name} with {other}: set media={other}")
    found = image or candidates[0]
    usual = next((name for name in LABELS if name in schema.names and name not in (found, caption)), None)
    label_found = usual if label is None else label or None
    for key, name in ((setting, found), ("label_column", label_found), ("caption_column", caption)):
        if name:
            _must_be_in_all(name, files, key)
    _must_hold(found, schema, files, holds_samples, setting, f"{media} (bytes, or a struct with bytes)")
    if caption:
        _must_hold(caption, schema, files, holds_text, "caption_column", "text")
    for name in candidates:
        if name != found:
            tally.noted(f"column {name} has {media} too, but {found} is read; --{setting} names another", str(first))
    for field in schema:
        if field.name != caption and field.name != label_found and holds_text(field.type):
            tally.noted(
                f"column {field.name} isn't read; --caption_column {field.name} makes it the captions", str(first)
            )
    return Columns(found, is_list(schema.field(found).type), label_found, caption)


def is_list(kind: Any) -> bool:
    """Whether a type is a list of any form."""
    from pyarrow import types

    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def hub_features(schema: Any) -> Mapping[str, Any]:
    """What the Hub's metadata say of each column; nothing where there are none."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError):
        return {}
    return features if isinstance(features, Mapping) else {}


def hub_kind(schema: Any, column: str) -> str | None:
    """The kind of sample that a column holds by the Hub's metadata, alone or in lists; None where they don't say."""
    feature = hub_features(schema).get(column)
    while isinstance(feature, list) or (isinstance(feature, Mapping) and "feature" in feature):
        feature = (feature[0] if feature else None) if isinstance(feature, list) else feature["feature"]
    called = feature.get("_type") if isinstance(feature, Mapping) else None
    return next((kind for kind, name in _FEATURES.items() if name == called), None)


def holds_samples(kind: Any) -> bool:
    """Whether a column of this type can hold encoded files: bytes, a struct with bytes or a path, lists of them."""
    from pyarrow import types

    if is_list(kind):
        return not is_list(kind.value_type) and holds_samples(kind.value_type)
    if types.is_struct(kind):
        names = {field.name for field in kind}
        return "bytes" in names or names == {"path"}
    return types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)


def holds_text(kind: Any) -> bool:
    """Whether a column of this type holds texts, or lists of them."""
    from pyarrow import types

    if is_list(kind):
        return holds_text(kind.value_type) and not is_list(kind.value_type)
    if types.is_dictionary(kind):
        return holds_text(kind.value_type)
    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)


def _must_be_in_all(name: str, files: Sequence[tuple[Path, Any]], key: str) -> None:
    for file, schema in files:
        if schema.names.count(name) > 1:
            raise UserError(f"column {name} is in {file} twice: rename one of them")
        if name not in schema.names:
            known = "" if file == files[0][0] else f", though it is in {files[0][0]}"
            none = " or '' for no classes" if key == "label_column" else ""
            raise UserError(
                f"column {name} isn't in {file}{known}: choose one of {', '.join(schema.names)}{none} by --{key}, or "
                "pack the files one by one"
            )


def _must_hold(name: str, schema: Any, files: Sequence[tuple[Path, Any]], fits: Any, key: str, what: str) -> None:
    for file, other in files:
        kind = other.field(name).type
        if not fits(kind):
            raise UserError(f"{key}={name} holds {kind} in {file}, not {what}: choose another column")
        if is_list(kind) != is_list(schema.field(name).type):
            raise UserError(f"column {name} is {kind} in {file}, but {schema.field(name).type} in {files[0][0]}: pack "
                            "the files one by one")  # fmt: skip
