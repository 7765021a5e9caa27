"""How latent vectors become codes: every setting of the quantizers, checked where it is read."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from launch.command.checks import at_least, check


@dataclass(frozen=True)
class QuantizerConfig:
    """How latent vectors become codes."""

    kind: Literal["vq", "fsq", "lfq", "bsq", "gumbel", "ibq", "residual", "product", "multiscale", "gaussian"] = "vq"
    """vq: nearest entry of a learned codebook (VQ-VAE, VQGAN); fsq: each channel rounded to one of a few levels; lfq,
    bsq: signs of the channels, on a cube or a sphere; gumbel: drawn by a softmax (dVAE); ibq: learned by its index;
    residual: several codebooks one after the other; product: side by side (UniTok); multiscale: next-scale residual
    (VAR); gaussian: no codes, a VAE's latents with a KL term."""
    codebook_size: int = 1024
    """Number of codes K, of each codebook; a power of 2 with lfq and bsq; with fsq, `levels` decide."""
    code_dim: int = 256
    """Length D of a code vector, and channels of what the decoder's side receives; with fsq, lfq and bsq it follows
    from the codes."""
    l2_normalise: bool = False
    """Look up on the unit sphere: latents and codes are scaled to length 1 (ViT-VQGAN; best with a small code_dim)."""
    learning: Literal["gradient", "moving_average"] = "gradient"
    """How codes follow their latents: by the codebook loss's gradient, or as moving averages of them."""
    reparametrise: Literal["none", "linear", "affine"] = "none"
    """linear: codes are frozen vectors times one learned matrix, so that all of them move with every step (SimVQ);
    affine: plus one learned vector, as SimVQ's published weights have it."""
    gradient: Literal["straight_through", "rotation"] = "straight_through"
    """What the encoder gets of the decoder's gradient: all of it, or turned as the latent was towards its code."""
    decay: float = 0.99
    """With learning=moving_average, the share of the old average that stays in each step."""
    commitment: float = 0.25
    """beta: weight of the term that draws latents to their codes (van den Oord et al. 2017, eq. 3)."""
    beta_placement: Literal["paper", "legacy"] = "paper"
    """paper: beta weighs the commitment term; legacy: the codebook term instead, as taming-transformers published."""
    start: Literal["uniform", "batch", "kmeans"] = "uniform"
    """First codes: uniform in [-1/K, 1/K], or from the first training batch: latent vectors, or centres by k-means."""
    revive_after: int = 0
    """Every so many training steps, codes that none of them used move to vectors of the global batch; 0: never."""
    kl_weight: float = 1e-4
    """With gaussian and gumbel, weight of the KL divergence, in nats per latent element or per code."""
    levels: list[int] = field(default_factory=lambda: [8, 5, 5, 5])
    """With fsq, levels of each channel; their product is the number of codes."""
    codebooks: int = 4
    """With residual and product, number of codebooks."""
    scales: list[int] = field(default_factory=lambda: [1, 2, 3, 4, 5, 6, 8, 10, 13, 16])
    """With multiscale, sides of the code grids, coarsest first; the last is the latent grid's."""
    entropy_weight: float = 0.1
    """With lfq, bsq and ibq, weight of the entropy term: each position sure of its code, the batch using all."""
    entropy_diversity: float = 1.0
    """Weight of the batch's entropy within that term."""
    entropy_temperature: float | None = None
    """Of the probabilities whose entropy is taken, over squared distances (lfq, bsq) or products (ibq); null: 0.01 with
    ibq, as its authors have it (with 1 it was seen to end with a single code), else 1."""
    entropy_bits: int = 18
    """With lfq and bsq, bits whose joint use the batch's entropy counts; longer ones are cut into groups of so many."""
    entropy_boost: float = 1.0
    """The entropy term's first weight over entropy_weight, to which it falls within `anneal` steps."""
    temperature: float = 1.0
    """With gumbel, the softmax's first temperature."""
    temperature_final: float = 0.0625
    """With gumbel, its temperature after `anneal` steps."""
    anneal: int = 0
    """Training steps in which temperature and entropy weight change; 0: temperature and entropy_weight stay."""

    def __post_init__(self) -> None:
        at = "model.quantizer."
        at_least(2, self, "codebook_size", "codebooks", prefix=at)
        at_least(1, self, "code_dim", prefix=at)
        weights = ("commitment", "kl_weight", "entropy_weight", "entropy_diversity", "entropy_boost")
        at_least(0, self, *weights, "revive_after", "anneal", prefix=at)
        check(at + "decay", self.decay, 0 <= self.decay < 1, "a share from 0 to below 1")
        check(at + "entropy_temperature", self.entropy_softness, self.entropy_softness > 0, "above 0, or to null")
        for name in ("temperature", "temperature_final"):
            check(at + name, getattr(self, name), getattr(self, name) > 0, "above 0")
        check(at + "entropy_bits", self.entropy_bits, 1 <= self.entropy_bits <= 20, "1 to 20")
        for key, value, good, rule in self._rules():
            if not good:
                raise ValueError(f"{at}{key}={value} {rule}")

    @property
    def width(self) -> int | None:
        """Channels of the latents that the quantizer gives, and takes (twice as many with `double_input`).

        None for a kind that is not listed here: then only building the model shows whether its parts fit.
        """
        bits = self.codebook_size.bit_length() - 1
        widths = {"fsq": len(self.levels), "lfq": bits, "bsq": bits}
        learned = ("vq", "gumbel", "ibq", "residual", "product", "multiscale", "gaussian")
        return (widths | dict.fromkeys(learned, self.code_dim)).get(self.kind)

    @property
    def double_input(self) -> bool:
        """Whether it takes means and variances, so twice as many channels as it gives."""
        return self.kind == "gaussian"

    @property
    def entropy_softness(self) -> float:
        """`entropy_temperature`, or what it is where it isn't set."""
        usual = 0.01 if self.kind == "ibq" else 1.0
        return usual if self.entropy_temperature is None else self.entropy_temperature

    def _rules(self) -> Iterator[tuple[str, object, bool, str]]:
        """Settings that must fit each other: key, value, whether they do, rule and way out."""
        averages, kind = self.learning == "moving_average", self.kind
        yield (
            "beta_placement",
            self.beta_placement,
            self.beta_placement == "paper" or not averages,
            "has no meaning with learning=moving_average, which has no codebook term: set it to paper",
        )
        frozen = self.reparametrise != "none"
        plain = not averages and self.start == "uniform" and not self.revive_after and not self.l2_normalise
        yield (
            "reparametrise",
            self.reparametrise,
            not frozen or plain,
            "moves all codes by one matrix: set learning=gradient, start=uniform, revive_after=0, l2_normalise=false",
        )
        if kind in ("lfq", "bsq"):
            power = self.codebook_size & (self.codebook_size - 1) == 0
            nearest = 1 << (self.codebook_size.bit_length() - 1)
            yield "codebook_size", self.codebook_size, power, f"is no power of 2, as {kind} needs: set it to {nearest}"
        if kind == "product":
            fits = self.code_dim % self.codebooks == 0
            nearest = max(self.code_dim // self.codebooks, 1) * self.codebooks
            yield "code_dim", self.code_dim, fits, f"is no multiple of codebooks={self.codebooks}: set it to {nearest}"
        if kind in ("residual", "multiscale"):
            yield "l2_normalise", True, not self.l2_normalise, f"loses what {kind} adds up, the length: set it to false"
        if kind == "multiscale":
            yield "learning", self.learning, not averages, "is not for multiscale: set it to gradient"
            yield "gradient", self.gradient, self.gradient == "straight_through", "is not for multiscale: leave it out"
            rising = bool(self.scales) and min(self.scales) >= 1 and sorted(set(self.scales)) == list(self.scales)
            yield "scales", list(self.scales), rising, "must rise from 1 or more: set it to [1, 2, 4], for example"
        if kind == "fsq":
            good = bool(self.levels) and min(self.levels) >= 3
            yield "levels", list(self.levels), good, "must be one or more numbers from 3 on: set it to [8, 5, 5, 5]"
