"""Terms of videos: LPIPS of single frames, and what changes between them.

Legend: B batch, C channels, T frames, H W pixels, F frames of all clips.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from stage1_tokenizer.layers.video import clips_of, frames_of
from stage1_tokenizer.losses.lpips import PerceptualTerm
from stage1_tokenizer.losses.term import Term


class FramePerceptualTerm(PerceptualTerm):
    """Mean LPIPS over `config.fraction` of the frames; those of a batch's clips take turns, so that all are seen."""

    def at(self, x_hat_BCHW: Tensor, x_BCHW: Tensor, micro_batch: int | None = None) -> tuple[Tensor, Tensor]:
        """Value and weighted gradient, from the frames of `micro_batch` clips at a time."""
        clips, _, frames = x_hat_BCHW.shape[:3]
        most = None if micro_batch is None else max(1, int(micro_batch * frames * self.fraction))
        chosen_F = frames_in_turn(clips, frames, self.fraction, x_hat_BCHW.device)
        value, gradient_FCHW = self.of_samples(frames_of(x_hat_BCHW), frames_of(x_BCHW), chosen_F, most)
        return value, clips_of(gradient_FCHW, frames)


@functools.cache  # a copy to a GPU would wait for it in every step
def frames_in_turn(clips: int, frames: int, fraction: float, device: torch.device) -> Tensor:
    """Numbers of a share of all frames, clip by clip, at least one; each clip begins one frame later than the last."""
    places = ((clip * frames + frame, clip + frame) for clip in range(clips) for frame in range(frames))
    chosen = [number for number, at in places if int((at + 1) * fraction) > int(at * fraction)] or [0]
    return torch.tensor(chosen, device=device)


class FrameDifferenceTerm(Term):
    """Mean |Δx̂ − Δx|, Δ the difference of neighbouring frames: flicker, and motion that is missed. 0 for pictures."""

    name = "frame_difference"

    def forward(self, x_hat_BCHW: Tensor, x_BCHW: Tensor) -> Tensor:
        """The value."""
        if x_BCHW.shape[2] == 1:
            return 0 * x_hat_BCHW.sum()
        return F.l1_loss(x_hat_BCHW.diff(dim=2), x_BCHW.diff(dim=2))
