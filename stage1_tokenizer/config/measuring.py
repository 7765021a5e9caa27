"""Settings of the evaluations. Both stages share those of distances."""

from dataclasses import dataclass
from typing import Literal

from launch.command.checks import at_least, check


@dataclass(frozen=True, kw_only=True)
class DistanceConfig:
    """Distances of a measured set of pictures from a reference set."""

    features: Literal["vgg16", "inception", "i3d", "none"] = "vgg16"
    """Network whose features the distances are measured on. inception: FID's own (fid, sfid, inception_score, kid,
    precision, recall); vgg16: LPIPS's (frechet_vgg16, kid_vgg16, precision_vgg16, recall_vgg16; of videos, on frames
    and their differences, frechet_video_vgg16, …); i3d, of videos: fvd_styleganv; none: no distances."""
    inception_weights: str | None = None
    """File with FID's weights, pt_inception-2015-12-05-6726825d.pth; null: torch hub's cache, or a download into it."""
    vgg_weights: str | None = None
    """File with VGG16's weights; null: an installed one, as for LPIPS."""
    i3d_weights: str | None = None
    """File i3d_torchscript.pt, for features=i3d; its hash must be that of the published file."""
    reference: str | None = None
    """The reference set: an index of shards, a folder of pictures, an .npz of pictures (arr_0), or statistics (a file
    written by `save_reference`, or ADM's)."""
    save_reference: str | None = None
    """An .npz file to write the reference's statistics to, for a later `reference`."""
    resize: bool = False
    """Crop and resize finished pictures of the reference (a folder, an .npz) as the tokenizer's transform does.
    Otherwise a reference of another size than the measured pictures' is refused."""
    allow_left_out: float = 0.1
    """Share of the pictures of a set that may be left out because they can't be read."""
    kept: int = 10_000
    """Pictures of each set for kid, precision and recall, chosen by their keys; other distances use all pictures."""

    def __post_init__(self) -> None:
        at_least(4, self, "kept")
        check("allow_left_out", self.allow_left_out, 0 <= self.allow_left_out <= 1, "a share from 0 to 1")
        if self.features == "none" and (self.reference or self.save_reference):
            raise ValueError("reference and save_reference need features: set features to vgg16 or inception")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(DistanceConfig):
    """Measure a tokenizer's reconstructions and its use of the codebook on a set of pictures."""

    tokenizer: str
    """Folder of a released tokenizer, or of a run (measures the averaged weights of its newest checkpoint)."""
    data: str
    """The pictures: an index (path or URL), tars (a.tar, 'shards/*.tar'), a folder of pictures, or picture files
    ('photos/*.jpg'). All are prepared as the tokenizer's transform says."""
    out: str
    """JSON file for the figures."""
    pictures: str | None = None
    """PNG file for originals next to their reconstructions; of sounds, their spectrograms; of videos, strips of
    frames."""
    picture_count: int = 32
    """Pictures in that file, evenly spaced over the set."""
    sounds: str | None = None
    """Of sounds: folder for so many originals and their reconstructions as FLAC files, with the first 1, 2, 4, … books
    too, and for their spectrograms."""
    videos: str | None = None
    """Of videos: folder for so many originals beside their reconstructions, as animated WebP."""
    samples: int | None = None
    """Number of pictures to measure, evenly spaced over the set; null: all."""
    batch_size: int = 64
    """Batch size of each rank."""
    threads: int | None = None
    """Reading and decoding threads of each rank; null: its share of the cores, at most 8."""
    lpips: bool = True
    """Measure LPIPS (it takes most of the time); sounds have none, and no distances of `features`."""
    lpips_net: Literal["vgg", "alex"] = "vgg"
    """LPIPS's network."""
    lpips_weights: str | None = None
    """File with that network's weights; null: an installed one."""
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the tokenizer; fp32 is IEEE float32 on every device, tf32 faster on GPUs. Results of different ones
    aren't comparable."""
    overwrite: bool = False
    """Overwrite `out`, `pictures`, `sounds`, `videos` and `save_reference` if they exist."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "picture_count", "batch_size", "threads", "samples")
