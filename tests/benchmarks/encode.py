"""Pictures per second from shards to code shards, beside LlamaGen's extractor.

    python -m tests.benchmarks.encode --peer DIR --pictures FOLDER [--size 256 --channels 64] [--count 200]

FOLDER has a folder of JPEGs for each class. Both encode each picture and its mirror image, with networks of the same
shape, on the same cores. LlamaGen's is the loop of `extract_codes_c2i.py` on its own VQModel's networks: one picture
and its mirror image a call, a file of codes for each. Ours is `stage2_prior.encode --flip true` from tars, timed from
its start to its end, imports included; theirs from its first picture on. They take turns. The last line is JSON:
`speedup_llamagen` is the median over the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from data.pictures.config import TransformConfig
from stage1_tokenizer.config.training import ModelConfig, QuantizerConfig
from stage1_tokenizer.tokenizer.model import Tokenizer
from tests.benchmarks.peer_steps import LlamaGen, importable


class Folder:
    """The first pictures of each class of a folder, prepared by LlamaGen's own crop."""

    def __init__(self, pictures: Path, checkout: Path, size: int, count: int):
        with importable(checkout):
            from dataset.augmentation import center_crop_arr
        from torchvision import transforms
        from torchvision.datasets import ImageFolder

        steps = [transforms.Lambda(lambda image: center_crop_arr(image, size)), transforms.ToTensor()]
        normalise = transforms.Normalize(mean=[0.5] * 3, std=[0.5] * 3, inplace=True)
        self.every = ImageFolder(str(pictures), transform=transforms.Compose([*steps, normalise]))
        self.rows = np.linspace(0, len(self.every) - 1, min(count, len(self.every))).astype(int).tolist()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> Any:
        return self.every[self.rows[number]]

    def files(self) -> list[Path]:
        return [Path(self.every.samples[row][0]) for row in self.rows]


@torch.no_grad()
def theirs(model: Any, folder: Folder, out: Path, workers: int) -> float:
    """Seconds of LlamaGen's loop."""
    out.mkdir()
    began = time.perf_counter()
    loader: Any = DataLoader(folder, batch_size=1, shuffle=False, num_workers=workers)  # type: ignore[arg-type]
    for number, (x, y) in enumerate(loader):
        x_all = torch.cat([x, torch.flip(x, dims=[-1])])
        latents = model.quant_conv(model.encoder(x_all))
        indices = model.quantize(latents)[2][2]
        np.save(out / f"{number}-codes.npy", indices.reshape(x.shape[0], 2, -1).numpy())
        np.save(out / f"{number}-labels.npy", y.numpy())
    return time.perf_counter() - began


def ours(tokenizer: Path, index: Path, out: Path) -> float:
    """Seconds of our command."""
    words = ["--tokenizer", str(tokenizer), "--data", str(index), "--out", str(out), "--flip", "true"]
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "stage2_prior.encode", *words], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--peer", type=Path, required=True, help="folder with a checkout LlamaGen")
    parser.add_argument("--pictures", type=Path, required=True, help="folder of folders of JPEGs")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--multipliers", type=int, nargs="+", default=[1, 1, 2, 2, 4])
    parser.add_argument("--codes", type=int, default=16384)
    parser.add_argument("--count", type=int, default=200, help="pictures")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(cores)
    quantizer = QuantizerConfig(codebook_size=args.codes, code_dim=8, l2_normalise=True)
    config = ModelConfig(
        channels=args.channels, channel_multipliers=args.multipliers, res_blocks=2, quantizer=quantizer
    )
    transform = TransformConfig(size=args.size, channels=3, fit="crop")
    torch.manual_seed(0)
    seconds: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        folder = Folder(args.pictures, args.peer / "LlamaGen", args.size, args.count)
        for file in folder.files():
            copy = place / "pictures" / file.parent.name / file.name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
        pack = [sys.executable, "-m", "data.pack", str(place / "pictures"), str(place / "shards"), "--kind", "folder"]
        subprocess.run(pack, check=True, stdout=subprocess.DEVNULL)
        Tokenizer(config, transform).save_pretrained(place / "tokenizer")
        peer = LlamaGen(args.peer / "LlamaGen", config, 0.5, False).model.eval()
        for turn in range(args.rounds):
            index = place / "shards" / "train.json"
            pair = (
                ours(place / "tokenizer", index, place / f"ours-{turn}"),
                theirs(peer, folder, place / f"{turn}", cores),
            )
            seconds.append(pair)
            print(f"round {turn + 1}: ours {pair[0]:.1f} s, LlamaGen {pair[1]:.1f} s", flush=True)
    pictures = len(folder)
    found = {
        "speedup_llamagen": round(statistics.median(other / own for own, other in seconds), 3),
        "pictures_per_second": round(pictures / min(own for own, _ in seconds), 2),
        "llamagen_pictures_per_second": round(pictures / min(other for _, other in seconds), 2),
        "pictures": pictures, "size": args.size, "channels": args.channels, "cores": cores,
    }  # fmt: skip
    print(json.dumps(found))


if __name__ == "__main__":
    main()
