"""Settings of the quantizers."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from launch.command.checks import at_least, check
from stage1_tokenizer.config.perturb import PerturbConfig


@dataclass(frozen=True)
class QuantizerConfig:
    """How latent vectors become codes."""

    kind: Literal["vq", "fsq", "lfq", "bsq", "gumbel", "ibq", "residual", "product", "multiscale", "gaussian"] = "vq"
    """vq: nearest entry of a learned codebook (VQ-VAE, VQGAN); fsq: each channel rounded to one of a few levels; lfq,
    bsq: signs of the channels, on a cube or a sphere; gumbel: sampled by Gumbel-softmax (dVAE); ibq: index
    backpropagation; residual: several codebooks in sequence; product: side by side (UniTok); multiscale: next-scale
    residual (VAR); gaussian: no codes, a VAE's latents with a KL term."""
    codebook_size: int = 1024
    """Number of codes K of each codebook; a power of 2 with lfq and bsq; with fsq, the product of `levels`."""
    code_dim: int = 256
    """Dimension D of code vectors and latents; with fsq, lfq and bsq it follows from the codes."""
    l2_normalise: bool = False
    """Normalise latents and codes to unit length (ViT-VQGAN; best with a small code_dim)."""
    learning: Literal["gradient", "moving_average"] = "gradient"
    """How codes are learned: by the gradient of the codebook loss, or as moving averages of their latents."""
    reparametrise: Literal["none", "linear", "affine"] = "none"
    """linear: codes are frozen vectors times one learned matrix, so that every step moves all of them (SimVQ); affine:
    plus one learned vector, as in SimVQ's published weights."""
    gradient: Literal["straight_through", "rotation"] = "straight_through"
    """Gradient estimator of the encoder: the decoder's gradient, or that rotated as the latent is to its code."""
    decay: float = 0.99
    """With learning=moving_average, decay of the averages per step."""
    commitment: float = 0.25
    """beta: weight of the commitment loss, which pulls latents to their codes (van den Oord et al. 2017, eq. 3)."""
    beta_placement: Literal["paper", "legacy"] = "paper"
    """paper: beta weights the commitment loss; legacy: the codebook loss instead, as in taming-transformers."""
    start: Literal["uniform", "batch", "kmeans"] = "uniform"
    """Initial codes: uniform in [-1/K, 1/K], or latents of the first training batch, or their k-means centres."""
    revive_after: int = 0
    """Training steps after which unused codes are replaced by latents of the global batch; 0: never."""
    kl_weight: float = 1e-4
    """With gaussian and gumbel, weight of the KL divergence, in nats per latent element or per code."""
    levels: list[int] = field(default_factory=lambda: [8, 5, 5, 5])
    """With fsq, levels of each channel; their product is the number of codes. All 2: a bit a channel (BAR)."""
    codebooks: int = 4
    """With residual and product, number of codebooks."""
    projections: Literal["none", "each", "split"] = "none"
    """With residual, linear maps from latents to codes and back. each: every codebook's own, and l2_normalise is for
    the search only (DAC); split: the first codebook's own, and those of all others, which don't see it (Mimi)."""
    latent_dim: int = 256
    """With projections, channels of the latents, where code_dim is that of the codes."""
    codebook_dropout: float = 0.0
    """With residual and multiscale, share of the training samples that use only the first n of the G codebooks (or
    scales), n evenly from codebook_dropout_from to G. ImageFolder has 0.1, from 3 on."""
    codebook_dropout_from: int = 1
    """The fewest codebooks (or scales) that such a sample uses."""
    strides: list[int] = field(default_factory=list)
    """With residual, positions that share a code, for each codebook: [8, 4, 2, 1] in SNAC; []: 1 for all."""
    scales: list[int] = field(default_factory=lambda: [1, 2, 3, 4, 5, 6, 8, 10, 13, 16])
    """With multiscale, sides of the code grids, coarsest first; the last is that of the latent grid."""
    entropy_weight: float = 0.1
    """With lfq, bsq and ibq, weight of the entropy loss: low entropy per position, high entropy over the batch."""
    entropy_diversity: float = 1.0
    """Weight of the batch's entropy within that loss."""
    entropy_temperature: float | None = None
    """Temperature of the probabilities in that loss, over squared distances (lfq, bsq) or products (ibq); null: 0.01
    with ibq, as its authors (with 1, it collapsed to a single code), else 1."""
    entropy_bits: int = 18
    """With lfq and bsq, bits in a group: the batch's entropy is joint within groups and summed over them."""
    entropy_boost: float = 1.0
    """Initial weight of the entropy loss over entropy_weight; it falls to entropy_weight over `anneal` steps."""
    temperature: float = 1.0
    """With gumbel, initial temperature of the softmax."""
    temperature_final: float = 0.0625
    """With gumbel, temperature after `anneal` steps."""
    anneal: int = 0
    """Training steps over which temperature and entropy weight change; 0: both are constant."""
    perturb: PerturbConfig = field(default_factory=PerturbConfig)
    """Codes replaced by near ones in training."""

    def __post_init__(self) -> None:
        at = "model.quantizer."
        at_least(2, self, "codebook_size", "codebooks", prefix=at)
        at_least(1, self, "code_dim", "latent_dim", prefix=at)
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
        """Channels of the latents and of the input (twice as many with `double_input`).

        None for a kind that is not listed here: then channels are checked only when the model is built.
        """
        bits = self.codebook_size.bit_length() - 1
        widths = {"fsq": len(self.levels), "lfq": bits, "bsq": bits}
        learned = ("vq", "gumbel", "ibq", "residual", "product", "multiscale", "gaussian")
        width = self.code_dim if self.projections == "none" else self.latent_dim
        return (widths | dict.fromkeys(learned, width)).get(self.kind)

    @property
    def binary(self) -> bool:
        """Whether each bit of a code is a channel of its own."""
        return self.kind in ("lfq", "bsq") or (self.kind == "fsq" and set(self.levels) == {2})

    @property
    def double_input(self) -> bool:
        """Whether the input is means and variances, with twice the channels of the latents."""
        return self.kind == "gaussian"

    @property
    def entropy_softness(self) -> float:
        """`entropy_temperature`, or its default."""
        usual = 0.01 if self.kind == "ibq" else 1.0
        return usual if self.entropy_temperature is None else self.entropy_temperature

    def _rules(self) -> Iterator[tuple[str, object, bool, str]]:
        """Settings that depend on each other: key, value, whether it is valid, rule and way out."""
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
        if kind in ("residual", "multiscale") and self.projections != "each":
            yield (
                "l2_normalise",
                True,
                not self.l2_normalise,
                f"is not supported with {kind}, which adds up vectors of any length: set it to false",
            )
        perturbs, samples = self.perturb.samples > 0, self.perturb.samples
        yield "perturb.samples", samples, not (perturbs and kind == "gaussian"), "is not for gaussian: set it to 0"
        yield (
            "perturb.samples",
            samples,
            not (perturbs and self.codebook_dropout),
            "is not supported with codebook_dropout, whose samples have fewer codes: set one of them to 0",
        )
        yield from self._residual_rules()
        if kind == "multiscale":
            yield "learning", self.learning, not averages, "is not for multiscale: set it to gradient"
            yield "gradient", self.gradient, self.gradient == "straight_through", "is not for multiscale: leave it out"
            rising = bool(self.scales) and min(self.scales) >= 1 and sorted(set(self.scales)) == list(self.scales)
            yield "scales", list(self.scales), rising, "must rise from 1 or more: set it to [1, 2, 4], for example"
        if kind == "fsq":
            good = bool(self.levels) and min(self.levels) >= 2
            yield "levels", list(self.levels), good, "must be one or more numbers from 2 on: set it to [8, 5, 5, 5]"

    def _residual_rules(self) -> Iterator[tuple[str, object, bool, str]]:
        """As `_rules`, of settings that only `residual` has."""
        strides, dropped, only = list(self.strides), self.codebook_dropout, self.kind == "residual"
        yield "projections", self.projections, only or self.projections == "none", "is for residual: set it to none"
        several = {"residual": self.codebooks, "multiscale": len(self.scales)}.get(self.kind, 0)
        good, rule = 0 <= dropped <= (several > 0), "is no share, or not for residual and multiscale: set it to 0"
        yield "codebook_dropout", dropped, good, rule
        fewest, most = self.codebook_dropout_from, max(several, 1) if dropped else 1
        rule = f"is not from 1 to {most}" + ("" if dropped else ", as codebook_dropout=0 has no use for it")
        yield "codebook_dropout_from", fewest, 1 <= fewest <= most, f"{rule}: set it to 1"
        good = not strides or (only and len(strides) == self.codebooks and min(strides) >= 1)
        yield "strides", strides, good, "must be [], or with residual a number from 1 on for each codebook: set so many"
