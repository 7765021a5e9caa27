"""A check of finished codes: a fresh encoding agrees with them, and they decode to the pictures (or other samples).

Shapes: B pictures, C channels, H W pixels, h w latent grid.
"""

import io
import math
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from launch.command.cli import UserError
from stage2_prior.codes.encoding import Encoding, names_of

PICTURES = "verify.png"
LEAST_EQUAL = 0.98
"""Share of the codes that a fresh encoding must repeat; ties may round apart for other batch sizes and devices."""


def stored(path: Path, keys: list[str]) -> tuple[np.ndarray, list[int]]:
    """Codes and labels (-1: none) of some samples of a code shard; UserError if one is missing."""
    codes, labels = [], []
    with tarfile.open(path) as tar:
        files = {member.name: tar.extractfile(member) for member in tar}
        for key in keys:
            file, label = files.get(f"{key}.codes.npy"), files.get(f"{key}.cls")
            if file is None:
                raise UserError(f"{path} has no codes of {key}: encode again with overwrite=true")
            codes.append(np.load(io.BytesIO(file.read())))
            labels.append(int(label.read()) if label else -1)
    return np.stack(codes), labels


@torch.inference_mode()
def verify(encoding: Encoding, count: int) -> str:
    """Compare `count` pictures' codes, from evenly spaced shards, with a fresh encoding; the result in a line.

    OUT/verify.png shows samples above what their codes decode to. UserError if codes or labels differ.
    """
    shards = np.unique(np.linspace(0, len(encoding.index.shards) - 1, min(count, len(encoding.index.shards))).round())
    each, equal, total, errors, rows = math.ceil(count / len(shards)), 0, 0, [], []
    device, kind = next(encoding.tokenizer.parameters()).device, encoding.kind
    for shard in map(int, shards):
        batch = next(encoding.pictures(shard, each), None)
        if batch is None:  # all in quarantine
            continue
        path = encoding.out.local(encoding.names[shard])
        for variant in encoding.variants:
            codes_Bhw, labels = stored(path, [name + variant.suffix for name in names_of(batch.keys, set())])
            if labels != batch.label_B.tolist():
                raise UserError(f"{path} has other labels than the {kind.name}: encode again with overwrite=true")
            equal += int((encoding.codes(batch, variant) == codes_Bhw).sum())
            total += codes_Bhw.size
            x_BCHW = variant.of(kind.input(batch, torch.device("cpu")), encoding.transform)
            decoded_BCHW = encoding.tokenizer.decode(torch.from_numpy(codes_Bhw.astype(np.int64)).to(device)).cpu()
            errors += ((decoded_BCHW.clamp(-1, 1) - x_BCHW) / 2).square().flatten(1).mean(1).tolist()
            shown = kind.decoded(encoding.tokenizer, torch.stack([x_BCHW[0], decoded_BCHW[0]]))
            rows += [[kind.picture(one) for one in shown]]
    if equal < LEAST_EQUAL * total:
        raise UserError(
            f"out={encoding.config.out}: a fresh encoding repeats only {equal / total:.1%} of the codes: "
            "encode again with overwrite=true"
        )
    buffer = io.BytesIO()
    _picture(rows).save(buffer, format="PNG")
    encoding.out.add(PICTURES, buffer.getvalue())
    psnr = float(np.mean([-10 * math.log10(max(error, 1e-10)) for error in errors]))
    repeated = f"a fresh encoding repeats {equal / total:.2%} of the codes"
    return f"verified {len(errors)} samples: {repeated}, PSNR {psnr:.2f} dB"


def _picture(rows: Sequence[Sequence[Image.Image]]) -> Image.Image:
    """Samples in a row, above what their codes decode to."""
    width, height = rows[0][0].size
    whole = Image.new(rows[0][0].mode, (len(rows) * width, 2 * height))
    for column, pair in enumerate(rows):
        for row, image in enumerate(pair):
            whole.paste(image, (column * width, row * height))
    return whole
