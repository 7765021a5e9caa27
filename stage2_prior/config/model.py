"""What a prior is: the block `model` of launch/recipes/*/prior.yaml."""

from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, Literal

from launch.command.checks import at_least, check
from stage2_prior.config.presets import PRESETS, SHAPE, PresetName
from stage2_prior.config.unified import UnifiedConfig

Architecture = Literal["llama", "qwen3", "olmo2"]
BYTES = "bytes"
"""The encoder that is trained with the prior."""
MOST_FACTOR_BITS = 16
"""Bits of a factor: it has a table of all its values."""
FEED_FORWARD_MULTIPLE = 32
"""The inner width is rounded up to a multiple of this, which suits matrix kernels."""


@dataclass(frozen=True)
class TextConfig:
    """How captions are encoded, with model.condition=text."""

    encoder: str = BYTES
    """bytes: a small transformer over the text's bytes, trained with the prior; else a frozen text encoder with its
    tokenizer (T5, CLIP, BERT, …): a folder or a Hub name."""
    revision: str | None = None
    """Branch, tag or commit of an encoder on the Hub; a release records the commit."""
    tokens: int = 64
    """Tokens (or bytes) of a caption, and positions they take in front of the codes; longer captions are cut off."""
    layers: int = 2
    """Layers of the encoder over bytes; it is as wide as the prior."""

    def __post_init__(self) -> None:
        at_least(1, self, "tokens", "layers", prefix="model.text.")
        if self.revision is not None and self.encoder == BYTES:
            raise ValueError("model.text.revision needs a Hub encoder, but model.text.encoder=bytes: leave it out")


@dataclass(frozen=True)
class PriorModelConfig:
    """The transformer over codes."""

    kind: Literal["autoregressive", "masked", "multiscale", "depth", "delay", "unified"] = "autoregressive"
    """autoregressive: a causal Llama, one code after the other; masked: a bidirectional encoder that fills in masks,
    with several codebooks one after the other (SoundStorm); multiscale: all codes of a scale at once, for multiscale
    quantizers (VAR); depth: a Llama over the positions and a small one over each position's codes, for residual and
    product quantizers (RQ-Transformer); delay: a Llama with a head for each codebook, whose codes are delayed against
    each other (MusicGen); unified: a causal language model over one vocabulary of text and codes."""
    condition: Literal["class", "none", "text"] = "class"
    """What the codes depend on: the sample's class, nothing, or its caption."""
    text: TextConfig = field(default_factory=TextConfig)
    """How captions are encoded."""
    architecture: Architecture = "llama"
    """The stock transformer, of all kinds but masked. qwen3: a Llama whose queries and keys pass a norm of each head
    (QK-norm), against attention that grows ever sharper; olmo2: with one norm of all heads' queries, one of all keys,
    and norms after attention and feed-forward layers instead of before."""
    preset: PresetName | None = None
    """A published shape, which sets layers, width, heads, feed_forward_width and, if the published model has QK-norm,
    architecture=qwen3; null: as set below."""
    layers: int = 6
    """Transformer layers."""
    depth_layers: int = 4
    """Of a depth prior: layers of the small transformer."""
    delays: list[int] | None = None
    """Of a delay or depth prior: steps by which each codebook's codes come later; null: 0, 1, 2, … for delay, none for
    depth. Moshi's depth prior has 0, 1, 1, …; all 0 with delay predicts a position's codes independently."""
    per_level_weights: bool = False
    """Of a depth prior: weights of its own for each codebook in the small transformer (Moshi)."""
    width: int = 256
    """Features per token."""
    heads: int = 4
    """Attention heads; they divide the width."""
    key_value_heads: int | None = None
    """Key and value heads, if fewer than `heads` (grouped-query attention); null: as many."""
    feed_forward_width: int | None = None
    """Inner width of the gated feed-forward layers; null: 8/3 of the width (the parameters of a plain layer at 4)."""
    tied: bool = False
    """Whether the output layer shares the token embedding's weights (a multiscale prior's always does)."""
    code_embeddings: Literal["random", "codebook"] = "random"
    """First embeddings of the codes. codebook: random projections of their vectors in the tokenizer's codebook, so that
    codes that stand for nearly the same thing begin alike; output layers begin so too."""
    rope_theta: float = 10000.0
    """Base of the rotary embeddings' wavelengths."""
    attention_dropout: float = 0.0
    """Dropout of attention weights in training."""
    dropout: float = 0.0
    """Dropout of what attention and feed-forward layers add to the residual stream, in training."""
    token_dropout: float = 0.0
    """Dropout of the features of embedded tokens (classes and codes), in training."""
    code_noise: float = 0.0
    """Share of the input codes (not the targets) replaced by random ones in training, against overfitting small
    sets."""
    class_dropout: float = 0.1
    """Share of training samples without their class or caption; guidance needs it above 0."""
    class_tokens: int = 1
    """Tokens in front of the codes that tell the class: its token, so many times. 32 gives later tokens more to attend
    to (BAR)."""
    order: Literal["raster", "random"] = "raster"
    """Of an autoregressive prior, order of codes in training: row by row; or random for each sample, annealed to row by
    row, so that the prior learns context from all sides (RAR). Sampling is row by row."""
    anneal_from: float = 0.5
    """With order=random: share of the steps after which random orders become rarer."""
    anneal_until: float = 0.75
    """With order=random: share of the steps from which all samples come row by row."""
    label_smoothing: float = 0.0
    """Share of the target spread evenly over all codes."""
    z_loss: float = 0.0
    """Weight of the squared log-sum-exp of the logits, which keeps them near 0 in long training; 1e-4 is usual."""
    head: Literal["softmax", "factors", "bits"] = "softmax"
    """Of an autoregressive or masked prior, how a code is predicted. softmax: one out of K; factors: its bits in a few
    factors, one after the other, by a small Llama (Open-MAGVIT2); bits: autoregressive, masked bits that are filled in
    by a few layers (BAR); masked, groups of bits that are masked each by itself (MaskBit). Memory of factors and bits
    grows with log2 K; they are for lfq, bsq and fsq with 2 levels, factors for every K that is a power of 2."""
    factors: list[int] | None = None
    """With head=factors, or bits of a masked prior: bits of each factor (or group) of a code, most significant first;
    null: as few as possible of at most 8 bits."""
    head_layers: int = 3
    """With head=factors or bits, layers of the head; a masked prior's head=bits has none."""
    head_width: int | None = None
    """With head=bits of an autoregressive prior, features in the head (BAR: 2048); null: `width`."""
    unified: UnifiedConfig = field(default_factory=UnifiedConfig)
    """Of a unified prior: its vocabulary, and what is asked of samples."""
    lora_rank: int = 0
    """Of a unified prior begun from a text model (init_text): rank of the low-rank changes (LoRA) to the matrices of
    its layers, which are else kept; embeddings and output layer are trained whole. 0: everything is trained."""
    loss_weights: dict[str, float] = field(default_factory=dict)
    """Of a unified prior: weight of each kind of token's mean loss, by "text" and the blocks' names; 1 where left
    out."""
    normalise_losses: bool = False
    """Of a unified prior: divide each kind's loss by its running root mean square (Dreamer 4), so that kinds with
    larger losses don't dominate; loss_weights apply after that."""

    def __post_init__(self) -> None:
        self._apply_preset()
        if self.order == "random" and self.kind != "autoregressive":
            raise ValueError(f"model.order=random is not supported with model.kind={self.kind}: set it to raster")
        if self.condition == "text" and self.kind == "multiscale":
            raise ValueError(
                f"model.condition=text is not supported with model.kind={self.kind}: set it to class or none, or "
                "model.kind to another one"
            )
        self._check_levels()
        self._check_tokens()
        self._check_head()
        if not 0 <= self.anneal_from <= self.anneal_until <= 1:
            raise ValueError(
                f"model.anneal_from={self.anneal_from} and model.anneal_until={self.anneal_until} must be in [0, 1], "
                "the first not above the second"
            )
        check("model.z_loss", self.z_loss, self.z_loss >= 0, "0 (none) or more")
        self._check_unified()
        sizes = ("layers", "depth_layers", "width", "heads", "class_tokens", "head_layers", "head_width")
        at_least(1, self, *sizes, prefix="model.")
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise ValueError(
                f"model.width={self.width} divided by model.heads={self.heads} must be an even whole number: set "
                f"model.width to a multiple of {2 * self.heads}"
            )
        if self.key_value_heads is not None and (self.key_value_heads < 1 or self.heads % self.key_value_heads):
            raise ValueError(
                f"model.key_value_heads={self.key_value_heads} doesn't divide model.heads={self.heads}: "
                "set it to null or to a divisor"
            )
        for name in ("attention_dropout", "dropout", "token_dropout", "code_noise", "class_dropout", "label_smoothing"):
            check(f"model.{name}", getattr(self, name), 0 <= getattr(self, name) < 1, "a share in [0, 1)")

    def _check_tokens(self) -> None:
        """What not every kind or condition supports, by its default and the kinds that don't."""
        for name, default, kinds in (
            ("architecture", "llama", ("masked",)),
            ("token_dropout", 0.0, ("multiscale",)),
            ("class_tokens", 1, ("multiscale",)),
            ("code_embeddings", "random", ("multiscale", "unified")),
        ):
            if getattr(self, name) != default and self.kind in kinds:
                raise ValueError(
                    f"model.{name}={getattr(self, name)} is not supported with model.kind={self.kind}: leave it out, "
                    "or set model.kind to another one"
                )
        if self.class_tokens > 1 and self.condition != "class":
            raise ValueError(
                f"model.class_tokens={self.class_tokens} is not supported with model.condition={self.condition}: leave "
                "it out, or set model.condition to class"
            )

    def _check_unified(self) -> None:
        """What only unified priors have, or not."""
        check("model.lora_rank", self.lora_rank, self.lora_rank >= 0, "0 (everything is trained) or more")
        for kind, weight in self.loss_weights.items():
            check(f"model.loss_weights[{kind}]", weight, weight >= 0, "0 (no loss) or more")
        if self.kind == "unified" and self.code_noise > 0:
            raise ValueError(
                f"model.code_noise={self.code_noise} is not supported with model.kind=unified: leave it out"
            )
        if self.kind != "unified":
            own = ("unified", "lora_rank", "loss_weights", "normalise_losses")
            for name in (
                one.name for one in fields(self) if one.name in own and getattr(self, one.name) != _default(one)
            ):
                raise ValueError(
                    f"model.{name} is not supported with model.kind={self.kind}: leave it out, or set model.kind to "
                    "unified"
                )

    def _check_levels(self) -> None:
        if self.per_level_weights and self.kind != "depth":
            raise ValueError(
                f"model.per_level_weights=true is not supported with model.kind={self.kind}: leave it out, or set "
                "model.kind to depth"
            )
        if self.per_level_weights and self.code_embeddings != "random":
            raise ValueError(
                f"model.code_embeddings={self.code_embeddings} is not supported with model.per_level_weights=true: "
                "leave one of them out"
            )
        if self.delays is None:
            return
        if self.kind not in ("delay", "depth"):
            raise ValueError(
                f"model.delays is not supported with model.kind={self.kind}: leave it out, or set model.kind to delay "
                "or depth"
            )
        if not self.delays or min(self.delays) != 0:
            raise ValueError(
                f"model.delays={self.delays} must be a number of steps for each codebook, the smallest of them 0: set "
                "it to [0, 1, 1, 1], for example"
            )

    def _check_head(self) -> None:
        bits, factors = self.head == "bits" and self.kind == "autoregressive", self.factors
        for name, wrong, way in (
            ("head", self.head != "softmax" and self.kind not in ("autoregressive", "masked"), "set it to softmax"),
            ("order", self.head != "softmax" and self.order == "random", "set it to raster"),
            ("code_embeddings", self.code_embeddings != "random" and self.head != "softmax", "leave it out"),
            ("factors", factors is not None and (self.head == "softmax" or bits), "leave it out"),
            ("head_width", self.head_width is not None and not bits, "leave it out"),
        ):
            if wrong:
                value, other = getattr(self, name), "" if name == "head" else f" and model.head={self.head}"
                raise ValueError(f"model.{name}={value} is not supported with model.kind={self.kind}{other}: {way}")
        if factors is not None and not (factors and min(factors) >= 1 and max(factors) <= MOST_FACTOR_BITS):
            raise ValueError(
                f"model.factors={factors} must be numbers of bits from 1 to {MOST_FACTOR_BITS}: set it to [6, 6, 6], "
                "for example, of codes of 18 bits"
            )

    def _apply_preset(self) -> None:
        if self.preset is None:
            return
        defaults = {field.name: field.default for field in fields(self)}
        for name, value in zip(SHAPE, PRESETS[self.preset], strict=True):
            own = getattr(self, name)
            if own not in (defaults[name], value):
                raise ValueError(
                    f"model.{name}={own} contradicts model.preset={self.preset}, which has {value}: leave one out"
                )
            object.__setattr__(self, name, value)

    @property
    def prefix(self) -> int:
        """Positions that the condition takes in front of the codes, but the last one."""
        return self.text.tokens if self.condition == "text" else self.class_tokens - 1

    @property
    def inner_width(self) -> int:
        """Features inside the feed-forward layers."""
        if self.feed_forward_width is not None:
            return self.feed_forward_width
        return -(-8 * self.width // (3 * FEED_FORWARD_MULTIPLE)) * FEED_FORWARD_MULTIPLE


def _default(setting: Field) -> Any:
    """A setting's default."""
    return setting.default if setting.default_factory is MISSING else setting.default_factory()
