from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from launch.command.cli import UserError
from stage1_tokenizer.tokenizer.model import Tokenizer
from tests.stage1_tokenizer import tiny


@pytest.fixture
def tokenizer() -> Tokenizer:
    return tiny.tokenizer()


def pictures(count: int = 3, seed: int = 1) -> torch.Tensor:
    return torch.rand(count, 1, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_the_public_name_is_there_without_loading_torch():
    line = "import sys, stage1_tokenizer; assert 'torch' not in sys.modules; stage1_tokenizer.Tokenizer.from_pretrained"
    subprocess.run([sys.executable, "-c", line], check=True, cwd=tiny.ROOT)


def test_encode_and_decode(tokenizer: Tokenizer):
    idx_Bhw = tokenizer.encode(pictures())
    assert idx_Bhw.dtype is torch.int64 and idx_Bhw.shape == (3, *tokenizer.grid(16)) == (3, 8, 8)
    assert int(idx_Bhw.min()) >= 0 and int(idx_Bhw.max()) < tokenizer.codebook_size == 32
    x_BCHW = tokenizer.decode(idx_Bhw)
    assert x_BCHW.shape == (3, 1, 16, 16) and float(x_BCHW.abs().max()) <= 1
    recon_BCHW, codes_Bhw = tokenizer.reconstruct(pictures())
    assert torch.equal(recon_BCHW, x_BCHW) and codes_Bhw is not None and torch.equal(codes_Bhw, idx_Bhw)


def test_pictures_are_encoded_each_by_itself(tokenizer: Tokenizer):
    together = tokenizer.encode(pictures(4))
    assert torch.equal(torch.cat([tokenizer.encode(x[None]) for x in pictures(4)]), together)


def test_training_forward_gives_the_same_picture(tokenizer: Tokenizer):
    made = tokenizer(pictures())
    assert torch.allclose(made.x_BCHW.clamp(-1, 1), tokenizer.reconstruct(pictures())[0])
    assert torch.equal(tokenizer.decoder.last_layer(made.features_BCHW), made.x_BCHW)


@pytest.mark.parametrize(
    ("x_BCHW", "message"),
    [
        (torch.zeros(1, 1, 16, 16, dtype=torch.uint8), "not floats"),
        (torch.full((1, 1, 16, 16), 255.0), "not in \\[-1, 1\\]"),
        (torch.full((1, 1, 16, 16), float("nan")), "not in \\[-1, 1\\]"),
        (torch.zeros(1, 3, 16, 16), "1 channel"),
        (torch.zeros(1, 16, 16), "4 axes"),
        (torch.zeros(1, 1, 16, 15), "size=15 is not a multiple of the tokenizer's stride 2"),
    ],
)
def test_encode_refuses(tokenizer: Tokenizer, x_BCHW: torch.Tensor, message: str):
    with pytest.raises(ValueError, match=message):
        tokenizer.encode(x_BCHW)


@pytest.mark.parametrize(
    ("idx_Bhw", "message"),
    [
        (torch.zeros(1, 8, 8), "not whole numbers"),
        (torch.zeros(1, 64, dtype=torch.int64), "3 axes"),
        (torch.full((1, 8, 8), 32), "not all in \\[0, 32\\)"),
        (torch.full((1, 8, 8), -1), "not all in \\[0, 32\\)"),
    ],
)
def test_decode_refuses(tokenizer: Tokenizer, idx_Bhw: torch.Tensor, message: str):
    with pytest.raises(ValueError, match=message):
        tokenizer.decode(idx_Bhw)


def test_training_mode_is_refused(tokenizer: Tokenizer):
    with pytest.raises(RuntimeError, match="eval"):
        tokenizer.train().encode(pictures())


def test_a_gaussian_latent_has_no_codes():
    tokenizer = tiny.tokenizer("gaussian")
    assert tokenizer.codebook_size == 0
    with pytest.raises(ValueError, match="no codes"):
        tokenizer.encode(pictures())
    recon_BCHW, codes = tokenizer.reconstruct(pictures())
    assert recon_BCHW.shape == (3, 1, 16, 16) and codes is None


def test_saved_and_loaded(tokenizer: Tokenizer, tmp_path: Path):
    tokenizer.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    ]
    loaded = Tokenizer.from_pretrained(tmp_path)
    assert loaded.fingerprint == tokenizer.fingerprint and loaded.transform == tiny.TRANSFORM
    assert not loaded.training
    assert torch.equal(loaded.encode(pictures()), tokenizer.encode(pictures()))
    # Once loaded it can be trained on: the codes are not drawn anew.
    before = loaded.quantizer.embedding.weight.clone()  # type: ignore[union-attr,operator]
    loaded.train()(pictures())
    assert torch.equal(loaded.quantizer.embedding.weight, before)  # type: ignore[union-attr]


def test_fingerprint_is_that_of_weights_and_settings():
    same, other = tiny.tokenizer(), tiny.tokenizer(seed=1)
    assert tiny.tokenizer().fingerprint == same.fingerprint != other.fingerprint
    assert len(same.fingerprint) == 64
    before = same.fingerprint
    with torch.no_grad():
        next(same.parameters()).view(-1)[0] += 1e-6
    assert same.fingerprint != before


def test_training_statistics_are_not_part_of_it(tokenizer: Tokenizer):
    before = tokenizer.fingerprint
    tokenizer.train()(pictures())
    assert tokenizer.fingerprint == before


def edited(folder: Path, **changes: object) -> None:
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, **changes}))


def test_altered_folders_are_refused(tokenizer: Tokenizer, tmp_path: Path):
    with pytest.raises(UserError, match=r"has no config\.json"):
        Tokenizer.from_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    edited(tmp_path, fingerprint="0" * 64)
    with pytest.raises(UserError, match="altered"):
        Tokenizer.from_pretrained(tmp_path)
    edited(tmp_path, model={"channel_size": 3})
    with pytest.raises(UserError, match="channel_size"):
        Tokenizer.from_pretrained(tmp_path)
    edited(tmp_path, format=99)
    with pytest.raises(UserError, match="format 99"):
        Tokenizer.from_pretrained(tmp_path)
    edited(tmp_path, model_type="llama")
    with pytest.raises(UserError, match="model_type"):
        Tokenizer.from_pretrained(tmp_path)


def test_damaged_weights_and_pickles_are_refused(tokenizer: Tokenizer, tmp_path: Path):
    tokenizer.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="can't be loaded"):
        Tokenizer.from_pretrained(tmp_path)
    torch.save(tokenizer.state_dict(), weights)
    with pytest.raises(UserError, match="can't be loaded"):
        Tokenizer.from_pretrained(tmp_path)
