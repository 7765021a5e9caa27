"""Which tokenizers `stage1_tokenizer.compare` trains, and its settings."""

from dataclasses import dataclass, field
from typing import Any, Literal

from launch.command.checks import at_least

PIXELS_ONLY = {"loss.pixel": "l2", "loss.perceptual.weight": 0, "loss.adversarial.weight": 0}
"""The losses of VAE and VQ-VAE: no LPIPS, no discriminator."""

PLAIN = {
    "codebook_size": 1024,
    "code_dim": 16,
    "l2_normalise": "false",
    "learning": "gradient",
    "start": "uniform",
    "revive_after": 0,
    "projections": "none",
    "codebook_dropout": 0,
    "codebook_dropout_from": 1,
    "strides": "[]",
}
"""Settings of the quantizer in every variant, unless it sets its own; the recipe's are ignored."""

LEARNED = {"start": "batch", "revive_after": 50}
SPHERE = {**LEARNED, "l2_normalise": "true"}
SMALL = {**LEARNED, "codebook_size": 32, "codebooks": 2}

VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "vae": ({"kind": "gaussian"}, PIXELS_ONLY),
    "vq-vae": ({"kind": "vq", **LEARNED}, PIXELS_ONLY),
    "vqgan": ({"kind": "vq", **LEARNED}, {}),
    "vq-sphere": ({"kind": "vq", **SPHERE}, {}),
    "vq-average": ({"kind": "vq", **SPHERE, "learning": "moving_average"}, {}),
    "vq-kmeans": ({"kind": "vq", **LEARNED, "start": "kmeans"}, {}),
    "vq-rotation": ({"kind": "vq", **LEARNED, "gradient": "rotation"}, {}),
    "simvq": ({"kind": "vq", "reparametrise": "linear"}, {}),
    "fsq": ({"kind": "fsq", "levels": "[8, 5, 5, 5]"}, {}),
    "lfq": ({"kind": "lfq"}, {}),
    "bsq": ({"kind": "bsq"}, {}),
    "gumbel": ({"kind": "gumbel"}, {}),
    "ibq": ({"kind": "ibq"}, {}),
    "residual": ({"kind": "residual", **SMALL}, {}),
    "product": ({"kind": "product", **SMALL, "l2_normalise": "true"}, {}),
    "multiscale": ({"kind": "multiscale", **LEARNED, "codebook_size": 256}, {}),
}
"""Name: settings of model.quantizer, and other settings. All but multiscale and vae have about 10 bits per position."""

BOOKS = {**LEARNED, "kind": "residual", "codebook_size": 256, "codebooks": 8, "codebook_dropout": 0.5}
DAC = {"projections": "each", "l2_normalise": "true", "code_dim": 8, "latent_dim": 64}

OF_SOUNDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "vq": VARIANTS["vqgan"],
    **{name: one for name, one in VARIANTS.items() if name not in ("vae", "vq-vae", "vqgan", "multiscale")},
    "residual": (BOOKS, {}),
    "residual-dac": ({**BOOKS, **DAC}, {}),
}
"""As VARIANTS, for sounds. The residual ones are measured at several rates: the first 1, 2, 4 and all 8 books."""

SMALL_PRIOR = {
    "model.layers": 4,
    "model.width": 128,
    "model.heads": 4,
    "model.class_dropout": 0,
    "data.batch_size": 64,
    "optimizer.learning_rate": 3.0e-3,
    "optimizer.ema_decay": 0.995,
}
"""Settings of stage2_prior.train that make the small prior of every tokenizer; samples are drawn without guidance."""

PERTURBED: dict[str, Any] = {"perturb_share": 0.2, "perturb_nearest": 10}
"""Settings of stage1_tokenizer.evaluate that go with the small prior: distances where a fifth of the codes is wrong."""
PERTURBED_NAME = "frechet_vgg16_perturbed_{perturb_share:g}_of_{perturb_nearest}".format(**PERTURBED)


OF_VIDEOS = {name: one for name, one in VARIANTS.items() if name != "multiscale"}
"""As VARIANTS, for videos."""


def variants_of(kind: str) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """The variants for a kind of data."""
    return {"sounds": OF_SOUNDS, "videos": OF_VIDEOS}.get(kind, VARIANTS)


@dataclass(frozen=True)
class CompareConfig:
    """Train tokenizers that differ in quantizer or losses only, and tabulate how well they reconstruct."""

    recipe: str
    """YAML file of stage1_tokenizer.train with the networks, optimizer, transform and losses of all variants."""
    train: str
    """Index of the training samples."""
    held_out: str
    """Index of the samples to measure on."""
    out: str
    """Folder for runs, table and picture; finished runs in it are reused."""
    steps: int = 2000
    """Training steps of each variant, without early ones (data.early_steps); the adversarial term starts after a third
    of them."""
    variants: list[str] = field(default_factory=list)
    """Variants to train, in this order; none: all for this kind of data."""
    options: dict[str, str] = field(default_factory=dict)
    """More settings of stage1_tokenizer.train for all variants, by dotted name."""
    processes: int = 1
    """Ranks of each training."""
    samples: int | None = None
    """Number of held-out samples to measure, evenly spaced; null: all."""
    lpips: bool = True
    """Measure LPIPS (of pictures, and of videos' frames)."""
    lpips_weights: str | None = None
    """File with the weights of LPIPS's network; null: an installed one."""
    prior: Literal["none", "small"] = "none"
    """small: also train one small prior of fixed size on each tokenizer's codes, and measure how far its samples are
    from the held-out pictures, and reconstructions from perturbed codes: what reconstructs best isn't learned best."""
    prior_steps: int = 2000
    """With prior=small: its training steps, of 64 samples."""
    prior_samples: int = 1000
    """With prior=small: samples to draw and measure, the same number of each class."""
    prior_options: dict[str, str] = field(default_factory=dict)
    """With prior=small: more settings of stage2_prior.train for all priors, by dotted name, such as
    {"model.preset": "LlamaGen-B"}."""
    pictures: int = 8
    """Held-out samples in reconstructions.png; of sounds, their spectrograms; of videos, strips of frames."""

    def __post_init__(self) -> None:
        for name in self.variants:
            if name not in VARIANTS | OF_SOUNDS:
                raise ValueError(f"variants={name} is not known: choose among {', '.join(VARIANTS | OF_SOUNDS)}")
        at_least(1, self, "steps", "processes", "prior_steps", "pictures")
        at_least(2, self, "prior_samples")
