"""The model card of a converted tokenizer: where it came from, how it is used, what is not known."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stage1_tokenizer.tokenizer.model import Tokenizer

TEMPLATE = """---
{header}library_name: vqloom
tags:
- image-tokenizer
- vector-quantization
---

# {name}

An image tokenizer converted by vqloom from a checkpoint of {layout}'s layout: {codes} ({count:.2f} M parameters).

## Origin

- File `{file}`, sha256 `{sha256}`; settings from {settings}.
- Published at {origin}.
- Licence of the weights: {licence}.
- Discriminator: {discriminator}.
{notes}
Conversion renames tensors and changes no value that the codes depend on. Figures are those of its publisher: nothing \
was measured here; `python -m stage1_tokenizer.evaluate` does it.

## Use

With torch, transformers and safetensors alone:

```python
{snippet}
```

With vqloom, `stage1_tokenizer.Tokenizer.from_pretrained("{name}")` has the same methods.

`preprocessor_config.json` prepares pictures of {size} pixels by cropping the middle and resizing, the usual way; how \
exactly its publisher did, the checkpoint does not tell. Fine-tuning starts from this folder with `--init`. \
Fingerprint `{fingerprint}`.
"""


@dataclass(frozen=True)
class Origin:
    """Where a converted tokenizer came from."""

    layout: str
    """The layout's name."""
    file: str
    """Name of the checkpoint."""
    sha256: str
    """Of the checkpoint."""
    settings: str | None
    """Name of the peer's configuration file."""
    origin: str | None
    """Where it was published, as the user says."""
    licence: str | None
    """Licence of the weights, as the user says."""
    notes: list[str] = field(default_factory=list)
    """What the conversion had to decide."""
    discriminator: str = "in `discriminator.safetensors`"
    """What became of it."""


def write_card(path: Path, name: str, tokenizer: Tokenizer, origin: Origin) -> None:
    """Write the card."""
    from stage1_tokenizer.publishing.standalone import snippet

    assert tokenizer.transform is not None
    size = tokenizer.transform.size
    grid = "×".join(map(str, tokenizer.codes_shape(size)))
    text = TEMPLATE.format(
        name=name,
        layout=origin.layout,
        codes=f"{size}×{size} pixels become {grid} codes out of {tokenizer.codebook_size}",
        count=sum(tensor.numel() for tensor in tokenizer.weights().values()) / 1e6,
        file=origin.file,
        sha256=origin.sha256,
        settings=f"`{origin.settings}`" if origin.settings else "the weights' names and shapes",
        origin=origin.origin or "a place that wasn't told",
        header=f"license: {origin.licence}\n" if origin.licence else "",
        licence=origin.licence or "not given to the converter; ask its publisher",
        snippet=snippet(tokenizer, name),
        discriminator=origin.discriminator,
        notes="".join(f"- {note}\n" for note in origin.notes),
        size=size,
        fingerprint=tokenizer.fingerprint,
    )
    path.write_text(text)
