"""Fills batches of clips. Shapes: B batch (this rank's part), C channels, T frames, H W pixels."""

import torch

from data.pictures.decode import Workspace, decode_picture, picture_bytes
from data.pictures.geometry import draw
from data.pictures.transforms import apply
from data.shards.draws import draws
from data.shards.index import ShardIndex
from data.shards.sample import Sample
from data.videos.batches import VideoBatch
from data.videos.clips import ClipDraw, fill_clip
from data.videos.config import VideoConfig
from data.videos.files import video_member


class VideoDecoder:
    """Fills uint8 batches of clips; of an index of pictures, which a mixture may have, each is a clip of one frame.

    `seed` None: nothing is drawn at random.
    """

    batch = VideoBatch

    def __init__(self, index: ShardIndex, seed: int | None, *, transform: VideoConfig, max_pixels: int):
        self._transform, self._max_pixels, self._seed = transform, max_pixels, seed
        self._pictures = index.kind == "pictures"
        self._pin = torch.cuda.is_available()
        self._workspace = Workspace()

    def allocate(self, rows: int) -> torch.Tensor:
        """pixels_BCTHW, uint8; pinned where there is a GPU, from torch's pool of pinned memory."""
        frames, *sides = self._transform.sizes
        shape = (rows, self._transform.channels, 1 if self._pictures else frames, *sides)
        return torch.empty(shape, dtype=torch.uint8, pin_memory=self._pin)

    def fill(self, sample: Sample, epoch: int, buffer: torch.Tensor, row: int) -> None:
        """Decode one sample into a row; DamagedSampleError if it can't be, or is too short and to be dropped."""
        random, out_CTHW = None, buffer[row].numpy()
        if self._seed is not None:
            # the first draw's are those of pictures; the start is of a hash of its own
            random = ClipDraw(draw(self._seed, epoch, sample.key), next(draws(self._seed, epoch, sample.key)))
        if not self._pictures:
            contents = sample.files[video_member(sample)]
            fill_clip(contents, self._transform, out_CTHW, max_pixels=self._max_pixels, random=random)
            return
        spatial = None if random is None else random.frame
        picture_HWC = decode_picture(
            picture_bytes(sample),
            self._transform,
            max_pixels=self._max_pixels,
            random=spatial,
            workspace=self._workspace,
        )
        apply(picture_HWC, self._transform, spatial, out_CTHW[:, 0].transpose(1, 2, 0))
