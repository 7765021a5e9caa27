"""Terms and discriminators of videos, against their definitions on single frames."""

from __future__ import annotations

import pytest
import torch

from stage1_tokenizer.config.losses import AdversarialConfig, LossConfig, PerceptualConfig
from stage1_tokenizer.discriminators import build_discriminator
from stage1_tokenizer.layers.video import TimeConv3d, frames_of
from stage1_tokenizer.losses.adversarial import adaptive_weight, gradient_penalty
from stage1_tokenizer.losses.lpips import PerceptualTerm
from stage1_tokenizer.losses.video import FrameDifferenceTerm, FramePerceptualTerm, frames_in_turn
from stage1_tokenizer.media.videos import terms
from stage1_tokenizer.training.adversary import Adversary
from tests.stage1_tokenizer.losses.random_lpips import random_lpips


def clips(frames: int = 5, side: int = 16, channels: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    x, y = (torch.rand(2, channels, frames, side, side, generator=draw) * 2 - 1 for _ in range(2))
    return x, y


def test_lpips_of_frames_is_that_of_pictures() -> None:
    lpips, (x, y) = random_lpips(), clips()
    of_frames, of_pictures = FramePerceptualTerm(PerceptualConfig(), lpips), PerceptualTerm(PerceptualConfig(), lpips)
    value, gradient = of_frames.at(y, x)
    expected, grad_FCHW = of_pictures.at(frames_of(y), frames_of(x))
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(frames_of(gradient), grad_FCHW)
    for part, given in zip(of_frames.at(y, x, micro_batch=1), (value, gradient), strict=True):
        torch.testing.assert_close(part, given)
    _, some = FramePerceptualTerm(PerceptualConfig(fraction=0.4), lpips).at(y, x)
    assert some.abs().amax((1, 3, 4)).gt(0).sum(1).tolist() == [2, 2]


def test_all_frames_take_their_turn() -> None:
    chosen = frames_in_turn(4, 8, 0.25, torch.device("cpu"))
    assert chosen.tolist() == [3, 7, 8 + 2, 8 + 6, 16 + 1, 16 + 5, 24 + 0, 24 + 4]
    assert frames_in_turn(1, 1, 0.25, torch.device("cpu")).tolist() == [0]


def test_frame_differences() -> None:
    term, (x, y) = FrameDifferenceTerm(0.5), clips()
    value, gradient = term.at(y, x)
    expected = ((y[:, :, 1:] - y[:, :, :-1]) - (x[:, :, 1:] - x[:, :, :-1])).abs().mean()
    torch.testing.assert_close(value, expected)
    assert gradient.abs().sum() > 0
    assert float(term.at(x + 0.1, x)[0]) == pytest.approx(0, abs=1e-6), "what is wrong in all frames alike"
    value, gradient = term.at(y[:, :, :1], x[:, :, :1])
    assert value == 0 and not gradient.any(), "pictures"
    (pixel, difference) = terms(LossConfig(terms={"frame_difference": 0.5}, perceptual=PerceptualConfig(weight=0)))
    assert (pixel.name, difference.name, difference.weight) == ("rec", "frame_difference", 0.5)


@pytest.mark.parametrize("kind", ["patch", "stylegan"])
def test_a_discriminator_of_frames_is_that_of_pictures(kind: str) -> None:
    x, _ = clips(4)
    config = AdversarialConfig(discriminator=kind, per_frame=True, channels=4, layers=2, group=2, penalty=1.0)  # type: ignore[arg-type]
    of_frames = build_discriminator(config, 3, 3)
    of_pictures = build_discriminator(AdversarialConfig(discriminator=kind, channels=4, layers=2, group=2), 3)  # type: ignore[arg-type]
    of_pictures.load_state_dict(of_frames.state_dict())
    x.requires_grad_()
    logits = of_frames(x)
    torch.testing.assert_close(logits, of_pictures(frames_of(x)))
    _, metrics = Adversary(config).loss(logits, of_frames(x.detach()), x, x, 0)
    frames = frames_of(x.detach()).requires_grad_()
    torch.testing.assert_close(metrics["gan/penalty"], gradient_penalty(of_pictures(frames), frames).detach())


@pytest.mark.parametrize("blur", [False, True])
@pytest.mark.parametrize("frames", [1, 2, 5, 17])
def test_a_discriminator_of_clips_takes_any_length_and_sees_time(frames: int, blur: bool) -> None:
    discriminator = build_discriminator(AdversarialConfig(channels=4, layers=2, norm="none", blur=blur), 3, 3)
    x, _ = clips(frames)
    logits = discriminator(x)
    assert logits.shape[:2] == (2, 1) and logits.isfinite().all()
    if frames > 2:
        assert not torch.allclose(discriminator(x.flip(2)).flip(2), logits)


def test_frames_of_other_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match=r"per_frame=True is out of range.*spatial_dims is not 3"):
        build_discriminator(AdversarialConfig(per_frame=True), 3, 2)
    with pytest.raises(ValueError, match="stft is for sounds"):
        build_discriminator(AdversarialConfig(discriminator="stft", per_frame=True), 3, 3)


@pytest.mark.parametrize("causal", [True, False])
def test_the_adaptive_weight_knows_what_the_last_layer_sees(causal: bool) -> None:
    torch.manual_seed(0)
    layer = TimeConv3d((4, 3), (3, 3), causal=causal).double()
    features, one, two = (torch.randn(2, width, 5, 6, 6, dtype=torch.float64) for width in (4, 3, 3))
    norms = [torch.autograd.grad((layer(features) * grad).sum(), layer.weight)[0].norm() for grad in (one, two)]
    torch.testing.assert_close(adaptive_weight(layer, features, one, two), norms[0] / (norms[1] + 1e-4))
