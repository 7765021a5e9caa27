"""Reconstruct picture, sound or video files: `python -m stage1_tokenizer.reconstruct FILES… --tokenizer DIR --out OUT`.

OUT/NAME.png                each picture, and its reconstruction to the right; of sounds, the spectrograms of both; of
                            videos, frames of the original above those of the reconstruction
OUT/NAME.flac               each sound's reconstruction
OUT/NAME.webp               each video, moving to the left of its reconstruction
OUT/reconstructions.json    PSNR and LPIPS, or SI-SDR; bytes of the file and of the codes; also printed as a table

Pictures and videos keep their size: sides are padded to a multiple of the tokenizer's stride by repeating the last row
or column (or frame), and the padding is cut off again. Large pictures are processed in overlapping tiles. Sounds and
videos are taken whole, at the rate and with the channels of the tokenizer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from launch.command.checks import at_least
from launch.command.cli import parse, run


@dataclass(frozen=True)
class ReconstructConfig:
    """Show how a tokenizer reconstructs some pictures, sounds or videos, and in how many bytes."""

    files: list[str]
    """Pictures, sounds or videos in any readable format, or folders of them; the first arguments."""
    tokenizer: str
    """Folder of a released tokenizer or of a run, or a name on the Hub."""
    out: str
    """Folder to create; it must not exist yet."""
    trained_size: bool = False
    """Crop and resize pictures and frames as in training instead of keeping their size."""
    lpips: bool = True
    """Measure LPIPS (vgg) too."""
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the tokenizer; fp32 is IEEE float32."""
    tile: int = 1024
    """Side in pixels of the tiles that larger pictures are processed in; 0: always whole."""
    max_pixels: int = 100_000_000
    """Pictures with more pixels are refused, and videos with more in all frames together."""

    def __post_init__(self) -> None:
        if not self.files:
            raise ValueError("files is empty: name one or more files")
        at_least(0, self, "tile")
        at_least(1, self, "max_pixels")


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    prog = "python -m stage1_tokenizer.reconstruct FILES…"
    config = parse(ReconstructConfig, argv, prog=prog, positional=("files",))
    from stage1_tokenizer.measuring.single_pictures import reconstruct_files, table

    rows = reconstruct_files(**vars(config))
    print(table(rows))
    print(config.out)


if __name__ == "__main__":
    run(main)
