"""A converted WavTokenizer beside its own code: are the codes equal, how far are the waveforms apart?

    python -m tests.benchmarks.sound_parity --peer DIR [--published]

DIR holds a checkout WavTokenizer/, which needs einops and scipy; torchaudio, which it imports for files, may be
missing. Its model, with random weights, is saved as its trainer would, converted, and given the same sound. The other
codecs are held to transformers' models by tests/stage1_tokenizer/foreign/test_sound_codecs.py.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

import torch
import yaml

from stage1_tokenizer.foreign.checkpoint import convert_checkpoint, read_checkpoint
from stage1_tokenizer.publishing.convert import build

CONFIG = "configs/wavtokenizer_smalldata_frame75_3s_nq1_code4096_dim512_kmeans200_attn.yaml"
LIMIT = 1e-4
"""Largest difference of a sample in [-1, 1] that still counts as equal."""
SMALL = {
    "feature_extractor": {"dowmsamples": [3, 2], "vq_bins": 64},
    "backbone": {"dim": 64, "intermediate_dim": 192, "num_layers": 2},
    "head": {"dim": 64, "n_fft": 24, "hop_length": 6},
}


@torch.no_grad()
def peer_of(place: Path, folder: Path, published: bool) -> Any:
    """Its model with random weights that use many codes, saved in a folder with its configuration."""
    for name in ("torchaudio", "torchaudio.functional", "torchaudio.functional.functional"):
        sys.modules.setdefault(name, types.ModuleType(name))
    for name in ("_hz_to_mel", "_mel_to_hz"):  # of another head
        vars(sys.modules["torchaudio.functional.functional"]).setdefault(name, None)
    sys.path.insert(0, str(place))
    from decoder.pretrained import WavTokenizer  # type: ignore[import-not-found]

    config = yaml.safe_load((place / CONFIG).read_text())
    for part, changes in ({} if published else SMALL).items():
        config["model"]["init_args"][part]["init_args"].update(changes)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    torch.manual_seed(0)
    model = WavTokenizer.from_hparams0802(str(folder / "config.yaml")).eval()
    for name, weight in [*model.named_parameters(), *model.named_buffers()]:
        if name.endswith("inited"):  # else it would draw its codes from the first sound
            weight.fill_(1)
        elif name.endswith("embed"):
            weight.normal_(std=0.1)
        elif name.endswith("weight_g"):
            weight.uniform_(0.5, 1.5)
        elif name.endswith((".scale.weight", ".shift.weight")):
            weight.normal_(float("scale" in name), 0.1)
        elif weight.ndim > 1:
            weight.normal_(std=weight[0].numel() ** -0.5)
        elif name.endswith("bias"):
            weight.normal_(std=0.1)
    torch.save({"state_dict": model.state_dict(), "epoch": 0, "global_step": 1}, folder / "model.ckpt")
    return model


@torch.no_grad()
def main() -> int:
    """Compare, print a line of JSON; 1 if they differ."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--peer", type=Path, required=True, help="folder with the checkout")
    parser.add_argument("--published", action="store_true", help="at its published size")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = peer_of((options.peer / "WavTokenizer").resolve(), folder, options.published)
        converted, _ = convert_checkpoint(read_checkpoint(folder, folder / "config.yaml"), "wavtokenizer")
    tokenizer = build(converted, "peer")
    x_BCT = torch.rand(2, 1, 24 * tokenizer.config.stride[0]) * 2 - 1
    features, codes = model.encode_infer(x_BCT[:, 0], bandwidth_id=torch.tensor([0]))
    waves = model.decode(features, bandwidth_id=torch.tensor([0]))
    made = tokenizer.decoder(tokenizer.quantizer.embed(tokenizer.encode(x_BCT)))[:, 0]
    row = {
        "codes_equal": torch.equal(tokenizer.encode(x_BCT), codes[0]),
        "distinct": len(codes.unique()),
        "difference": float((made - waves).abs().max()),
        "largest": float(waves.abs().max()),
    }
    print(json.dumps(row))
    return int(not row["codes_equal"] or row["difference"] > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
