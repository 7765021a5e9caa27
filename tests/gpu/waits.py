"""Run rows of the table on fake CUDA tensors and print what would wait for the GPU in each, as JSON.

python -m tests.gpu.waits STAGE ROW…
"""

from __future__ import annotations

from tests.gpu import fake_cuda  # isort: skip  (before torch)

import json
import sys
import tempfile
import traceback
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
import yaml

from stage2_prior.config.drawing import Drawing
from stage2_prior.config.model import PriorModelConfig
from tests.gpu.stage1 import Stage1
from tests.gpu.table import options
from tests.gpu.watch import CUDA, Seen, Watch
from tests.stage1_tokenizer.discriminators.frozen_vit import vit_file

STEPS = 2
"""The last one is watched: what is made once is there by then."""
FURTHER = '[{"discriminator": "stylegan", "layers": 3}]'


def made(stage: str, row: str, folder: Path, dino: Path) -> Any:
    """What a row says, with a `step`."""
    if stage == "sampler":
        return _sampler(row.split())
    words = {"DINO": str(dino), "further": FURTHER}
    given = [words.get(word, word) for word in options(stage, row)] + ["--run.folder", str(folder)]
    if stage == "tokenizer":
        return Stage1(given)
    from tests.gpu.stage2 import Stage2  # transformers take seconds to import

    return Stage2(given)


def _sampler(words: list[str]) -> Any:
    from stage2_prior.priors.build import build_prior
    from tests.gpu.stage2 import CLASSES, Sampler, quantizer_of, source_of

    settings = {name: yaml.safe_load(value) for name, _, value in (word.partition("=") for word in words)}
    names = {field.name for field in fields(Drawing)}
    drawing = Drawing(**{"steps": 2} | {name: value for name, value in settings.items() if name in names})
    model = {name.removeprefix("model."): value for name, value in settings.items() if name.startswith("model.")}
    config = PriorModelConfig(**{"layers": 1, "depth_layers": 1, "width": 32} | model)
    source = source_of(config.kind)
    prior = build_prior(config, source, CLASSES, quantizer_of(source))
    prior = prior.to(torch.bfloat16) if "bf16" in words else prior
    return Sampler(prior, drawing, given="given" in words, device=CUDA, graph="graph" in words)


def watched(stage: str, row: str, folder: Path, dino: Path) -> dict[str, Any]:
    """What waits in a row's last step, with how often; or the error that ended it."""
    try:
        with fake_cuda.pretend():
            with Seen():  # what is read while the networks are made is no wait of a step
                case = made(stage, row, folder, dino)
            for _ in range(STEPS):
                with Watch() as watch:
                    case.step()
        return {"waits": dict(watch.waits)}
    except (Exception, SystemExit) as error:
        ours = [frame for frame in traceback.extract_tb(error.__traceback__) if "site-packages" not in frame.filename]
        return {"error": f"{type(error).__name__}: {error}", "at": [f"{at.filename}:{at.lineno}" for at in ours[-3:]]}


def main() -> None:
    stage, *rows = sys.argv[1:]
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        dino = vit_file(Path(folder))
        for number, row in enumerate(rows):
            found[row] = watched(stage, row, Path(folder) / str(number), dino)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
