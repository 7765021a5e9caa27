"""The cost of a prior: parameters, operations, memory under each strategy, and the utilisation of devices.

Estimated from the configuration alone, on no device: `python -m stage2_prior.train --config R --dry-run`.
P parameters, N codes of a picture, K codes, D width, F inner width, L layers, n devices.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from launch.strategies.memory import memory_table, state_bytes
from stage1_tokenizer.config.quantizer import QuantizerConfig
from stage1_tokenizer.quantizers import build_quantizer
from stage2_prior.codes.factors import factors_for
from stage2_prior.codes.source import CodeSource
from stage2_prior.config.model import PriorModelConfig
from stage2_prior.config.training import PriorTrainConfig
from stage2_prior.priors.base import Prior
from stage2_prior.priors.build import build_prior, prior_class
from stage2_prior.priors.losses import MOST_LOGITS
from stage2_prior.priors.unified import UnifiedPrior

PEAK_TFLOPS = {
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100": 989.0,
    "B200": 2250.0,
    "A100": 312.0,
    "L40S": 362.0,
    "V100": 125.0,
}
"""Dense 16-bit products with 32-bit sums, 10¹² per second, from data sheets, by a part of the device's name."""


@dataclass(frozen=True)
class Cost:
    """Size and operations of one prior."""

    parameters: int
    """P."""
    multiplied: int
    """Parameters that multiply each token: all but the embeddings."""
    flops_per_code: float
    """Operations of a training step (forward and backward) per code."""


def cost(prior: Prior) -> Cost:
    """A prior's cost: 6 operations per multiplied weight and token, and 12·L·D per attended position.

    (Kaplan et al. 2020, section 2.1; a causal prior attends to half of the positions on average.)
    """
    multiplied, flops = 0, 0.0
    for work in prior.work():
        config, weights = work.transformer.config, list(work.transformer.parameters())
        embeddings = [module for module in work.transformer.modules() if isinstance(module, nn.Embedding)]
        used = sum(weight.numel() for weight in weights)
        if not config.tie_word_embeddings or work.transformer.get_output_embeddings() is None:
            used -= sum(module.weight.numel() for module in embeddings)
        multiplied += used
        attended = 12.0 * config.num_hidden_layers * config.hidden_size * work.attended
        flops += work.tokens * (6.0 * (used - work.idle) + attended)
    count = sum(weight.numel() for module in prior.exported.values() for weight in module.parameters())
    return Cost(count, multiplied, flops)


def on_no_device(config: PriorModelConfig, source: CodeSource, classes: Sequence[str]) -> Cost:
    """The cost of a prior that isn't allocated. Codes of scales are assumed to have 32 dimensions."""
    with torch.device("meta"):
        quantizer = None
        if source.form == "scales":
            settings = QuantizerConfig("multiscale", source.codebook_size, code_dim=32, scales=list(source.scales))
            quantizer = build_quantizer(settings)
        return cost(build_prior(config, source, classes, quantizer))


def activation_bytes(config: PriorTrainConfig, positions: int, codes: int, layers: float, devices: int) -> float:
    """Bytes kept for the backward pass on each device; with activation checkpointing each layer's input only.

    `positions` are the codes (or tokens) of a sample, `codes` the logits of each, `layers` those that each passes.

    A layer keeps its two normed inputs, q, k, v before and after rotation, attention's output, and gate, up, their
    product and the gate's activation: about 10 D + 4 F numbers per code; the loss keeps the float32 logits twice, of a
    chunk where there are too many.
    """
    model = config.model
    tokens = (model.prefix + positions) * -(-config.data.batch_size // (devices * config.micro_batches(devices)))
    size = 2 if config.run.precision == "bf16" else 4
    layer = (10 * model.width + 4 * model.inner_width) * size
    kept = layers * model.width * 4 + layer if config.activation_checkpointing else layers * layer
    logits = min(tokens * codes, MOST_LOGITS)
    return float(tokens * kept + 2 * 4 * logits)


def dry_run(config: PriorTrainConfig, source: CodeSource, classes: Sequence[str], note: str = "") -> str:
    """The cost of a training as text."""
    size, text = on_no_device(config.model, source, classes), config.model.condition == "text"
    condition = f"texts of {config.model.prefix} tokens" if text else f"{len(classes)} classes"
    tokens, each = config.data.batch_size * source.positions, size.flops_per_code
    model = config.model
    layers = prior_class(model.kind, model.head).layers_per_code(model, source)
    factors = factors_for(model.kind, model.head, model.factors, source.codebook_size)
    logits = sum(1 << bits for bits in factors) or source.codebook_size
    kept = partial(activation_bytes, config, source.positions, logits, layers)
    lines = [
        f"prior: {config.model.preset or config.model.kind}, {size.parameters / 1e6:.2f} M parameters, "
        f"{source}, {condition}{note}",
        f"a step: {tokens} codes, {each * tokens:.3g} FLOP ({each / 1e9:.3g} G a code); "
        f"{config.steps} steps: {each * tokens * config.steps:.3g} FLOP",
        *memory_table(
            config.run.precision,
            lambda devices: (state_bytes(size.parameters, devices), kept(devices)),
        ),
    ]
    return "\n".join(lines)


def unified_dry_run(config: PriorTrainConfig, prior: UnifiedPrior) -> str:
    """The cost of training a unified prior, on no device, as text; a sample fills a row of tokens at most."""
    size, layers = cost(prior), prior.lm.config.num_hidden_layers
    tokens, each = config.data.batch_size * prior.source.positions, size.flops_per_code
    kept = partial(activation_bytes, config, prior.source.positions, prior.vocabulary.size, layers)
    kinds = ", ".join(f"{count} ids of {name}" for name, count in prior.vocabulary.kinds.items())
    lines = [
        f"prior: unified, {size.parameters / 1e6:.2f} M parameters, {prior.source}, {kinds}",
        f"a step: up to {tokens} tokens, {each * tokens:.3g} FLOP ({each / 1e9:.3g} G a token)",
        *memory_table(config.run.precision, lambda devices: (state_bytes(size.parameters, devices), kept(devices))),
    ]
    return "\n".join(lines)


def peak_flops(device: torch.device, precision: str) -> tuple[float, str]:
    """Peak operations per second of a device, and the origin of the number.

    From the data sheet for bf16 on the GPUs in PEAK_TFLOPS; else the measured rate of a large product.
    """
    if device.type == "cuda" and precision == "bf16":
        name = torch.cuda.get_device_name(device)
        for known, tflops in PEAK_TFLOPS.items():
            if known in name:
                return tflops * 1e12, f"{known}'s data sheet"
    size = 4096 if device.type == "cuda" else 512
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    x = torch.ones(size, size, dtype=dtype, device=device)
    best = float("inf")
    for _ in range(4):
        began = time.perf_counter()
        (x @ x)[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - began)
    return 2.0 * size**3 / best, f"a product of {size}×{size} matrices"


class Utilisation:
    """Model FLOP utilisation: the model's operations as a share of its devices' peak."""

    def __init__(self, flops_per_token: float, peak: float):
        """Of a token (or code); `peak` operations per second are of all devices together."""
        self.flops_per_token, self.peak = flops_per_token, peak
        self._tokens, self._since = 0, time.perf_counter()

    def step(self, tokens: int) -> None:
        """Count a step of so many tokens on all devices together."""
        self._tokens += tokens

    def take(self) -> float:
        """The utilisation since the last call (or the start), in [0, 1] up to the peak's error."""
        now = time.perf_counter()
        share = self._tokens * self.flops_per_token / max(now - self._since, 1e-9) / self.peak
        self._tokens, self._since = 0, now
        return share
