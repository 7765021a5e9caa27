"""Settings of stage2_prior.evaluate."""

from dataclasses import dataclass
from typing import Literal

from launch.command.checks import at_least
from stage1_tokenizer.config.measuring import DistanceConfig


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(DistanceConfig):
    """Measure a prior and its samples; what isn't set isn't measured."""

    prior: str | None = None
    """A finished run's folder or a released prior; null to measure pictures from any source. Without it the pictures of
    an index are cropped to squares and resized to the samples' size."""
    out: str
    """JSON file for the results."""
    tokenizer: str | None = None
    """The released tokenizer, to check that the prior is over its codes; null: not checked."""
    codes: str | None = None
    """Index of held-out codes, for bits_per_code; needs `prior`. Of a unified prior codes with captions, or an index of
    texts, for bits_per_byte."""
    samples: str | None = None
    """The samples: a folder that stage2_prior.sample wrote, or, for distances alone, any folder of pictures or an .npz
    (arr_0). Needs `data` for class_agreement or `reference` for distances, or both."""
    predictions: str | None = None
    """Of videos: a folder of stage2_prior.inpaint with clips that go on from given ones, whose motion is checked as
    their captions say; needs `data`."""
    data: str | None = None
    """Index of real training pictures, which the classifier is fitted to; needs `prior`."""
    held_out: str | None = None
    """Index of real held-out pictures, for the classifier's accuracy."""
    classifier: Literal["default", "vgg16"] = "default"
    """What tells the classes of pictures apart. default: coarse pixels, which do for drawings and digits; vgg16:
    features of ImageNet, which know photographs far better. Sounds, videos and composed pictures have classifiers of
    their own. Results of different ones aren't comparable."""
    limit: int = 10_000
    """Most pictures of `data` (and of `held_out`) to use, evenly spaced."""
    captions: int = 1000
    """Of a unified prior: most samples of `codes`, evenly spaced, whose captions are compared with its own; 0: none."""
    retrieval: int = 100
    """Of a unified prior: samples of `codes` with different texts, each of which is looked for among all by likelihood,
    in both directions; 0: none."""
    batch_size: int = 64
    """Codes or pictures that each rank reads at once."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """Arithmetic of the prior for bits_per_code; fp32 is IEEE float32 on every device. tf32 and bf16 (products of
    matrices in bfloat16) are faster on GPUs; results of different ones aren't comparable."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.codes is None and self.samples is None and self.predictions is None:
            raise ValueError("nothing to measure: set codes; samples and data; or samples and reference")
        given = self.samples is not None or self.predictions is not None
        if self.predictions is not None and self.data is None:
            raise ValueError("predictions need data, whose captions say what can be checked: set it, or leave them out")
        if given == (self.data is None and self.reference is None):
            raise ValueError("samples go with data (for class_agreement), with reference (for distances), or with both")
        if self.reference is not None and self.samples is None:
            raise ValueError(f"reference={self.reference} needs samples to measure: set them, or leave it out")
        if self.prior is None and (self.codes or self.data or self.tokenizer):
            raise ValueError("codes, data and tokenizer need prior: set it, or leave them out")
        if self.save_reference and not self.reference:
            raise ValueError("save_reference needs reference: set it to the pictures whose statistics to save")
        at_least(1, self, "limit", "batch_size")
        at_least(0, self, "captions", "retrieval")
