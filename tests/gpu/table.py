"""The rows of tests/gpu/test_no_waits.py: small trainings, each with one setting that isn't the default, and samplers.

Settings that have choices come from the configurations themselves: a new quantizer, discriminator, kind of prior or
switch is a row by itself, which fails until NEEDS has what it needs, or NOT_HERE the reason why it is no row. Settings
that are numbers or names are listed here.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from stage1_tokenizer.config.quantizer import QuantizerConfig
from stage1_tokenizer.config.training import TokenizerTrainConfig
from stage2_prior.config.drawing import Drawing
from stage2_prior.config.model import PriorModelConfig
from stage2_prior.config.training import PriorTrainConfig

CONFIGS: dict[str, type] = {"tokenizer": TokenizerTrainConfig, "prior": PriorTrainConfig, "sampler": Drawing}
"""What has settings, by the first word of its rows."""

NOT_HERE = {
    "compile": "compiled code isn't met operation by operation; graph breaks have tests of their own",
    "data.transform": "is done on the CPU",
    "dry_run": "takes no steps",
    "evaluate_features": "is for evaluations, not for steps",
    "inflate": "is how a run begins",
    "loss.logits.normalise": "is a mean and a deviation",
    "loss.perceptual.net=squeeze": "needs a file of weights, and is no other code than alex",
    "loss.semantic.normalise": "is a mean and a deviation",
    "loss.semantic.resize": "is a choice of torch's interpolation",
    "model.code_embeddings": "is how a prior begins",
    "model.double_z": "is for published weights",
    "model.preset": "is a size",
    "model.unified": "is about how rows are made, on the CPU",
    "model.spatial_dims": "is 2 for pictures",
    "run.deterministic": "chooses among a library's kernels",
    "run.on_save_error": "is about checkpoints",
    "run.save_in_background": "is about checkpoints",
    "run.strategy": "is for several ranks",
}
"""Settings, or values of theirs, that are no rows, and why."""

FURTHER = {
    "tokenizer": """
        data.micro_batch=2 freeze=[encoder,quantizer] loss.adversarial.consistency=4 loss.logits.weight=0.1
        loss.adversarial.lecam=0.1 loss.adversarial.penalty=10
        loss.adversarial.penalty_fake=10 loss.adversarial.ramp=10 loss.adversarial.weight=0 loss.discriminators=further
        loss.perceptual.fraction=0.5 loss.perceptual.weight=1 model.dropout=0.1 model.quantizer.anneal=5
        model.quantizer.perturb.samples=1 model.quantizer.revive_after=1 model.vit.latent_tokens=5 optimizer.clip=0
        optimizer.ema_decay=0 run.log_every=1
    """,
    "prior": """
        data.micro_batch=2 model.attention_dropout=0.1 model.class_dropout=0 model.class_tokens=3 model.code_noise=0.1
        model.dropout=0.1 model.key_value_heads=2 model.label_smoothing=0.1 model.token_dropout=0.1 model.z_loss=0.0001
        optimizer.accumulate=2 optimizer.clip=0 run.log_every=1
    """,
}
"""Settings without listed choices that change what a step does."""

SMALL = {
    "tokenizer": "data.index=none data.batch_size=4 data.transform.size=32 model.z_channels=8 "
    "model.quantizer.codebook_size=32 model.quantizer.code_dim=4 loss.perceptual.weight=0 loss.adversarial.layers=1 "
    "loss.adversarial.channels=8 optimizer.warmup=10",
    "prior": "tokenizer=unread data.index=none data.batch_size=4 model.layers=1 model.width=32 model.depth_layers=1 "
    "model.text.layers=1 model.text.tokens=4",
}
"""What the rows of a stage share."""

CONVOLUTIONS = "model.res_blocks=1 model.channels=8 model.channel_multipliers=[1,2]"
SOUNDS = (
    "data.transform.kind=sounds data.transform.sample_rate=8000 data.transform.length=4096 model.spatial_dims=1 "
    'model.in_channels=1 loss.terms={"waveform":1,"mel":1,"stft":1} loss.adversarial.adaptive=false '
    "loss.adversarial.channels=4"
)
VOCOS = f"{SOUNDS} model.backbone=vocos model.vocos.hop=16 model.vocos.window=64 model.vocos.width=16"
SEANET = f"{SOUNDS} model.backbone=seanet model.seanet.strides=[2,4] model.channels=4"
VIDEOS = (
    "data.transform.kind=videos data.transform.frames=4 model.spatial_dims=3 model.res_blocks=1 model.channels=4 "
    "model.channel_multipliers=[1,2] model.attention=false loss.adversarial.channels=4 "
    'loss.terms={"frame_difference":1}'
)
PICTURES_ONLY = ("data.transform.size", "loss.perceptual.weight", "loss.adversarial.layers")
"""Of SMALL, what sounds don't have."""
VIT = "model.backbone=vit model.vit.size=32 model.vit.patch=8 " + " ".join(
    f"model.vit.{half}.width=16 model.vit.{half}.depth=1 model.vit.{half}.heads=2" for half in ("encoder", "decoder")
)
NEEDS = {
    "loss.adversarial.discriminator=dino": "loss.adversarial.weights=DINO loss.adversarial.resize=32",
    "loss.adversarial.discriminator=stylegan": "loss.adversarial.layers=3",
    "loss.adversarial.discriminator=periods": VOCOS,
    "loss.adversarial.discriminator=bands": f"{VOCOS} loss.adversarial.windows=[64]",
    "loss.adversarial.discriminator=stft": f"{VOCOS} loss.adversarial.windows=[64]",
    "loss.adversarial.per_frame": VIDEOS,
    "loss.adversarial.consistency": "loss.adversarial.augment.translate=0.1",
    "loss.logits": "loss.logits.network=TINY/CLASSIFIER loss.logits.normalise=imagenet",
    "loss.semantic": "loss.semantic.network=TINY/VISION loss.semantic.weight=1 loss.semantic.size=32 "
    "loss.semantic.normalise=imagenet loss.semantic.hidden=8",
    "loss.adversarial.reduction": f"{VOCOS} loss.adversarial.discriminator=periods",
    "loss.balance": VOCOS,
    "loss.preset": VOCOS,
    "loss.adversarial.penalty": "loss.adversarial.penalty_every=1",
    "loss.adversarial.penalty_fake": "loss.adversarial.penalty_every=1",
    "loss.perceptual": "loss.perceptual.weight=1",
    "model.conv_plus": "model.backbone=conv_plus",
    "model.backbone=movq": f"{VIDEOS} model.attention=true model.quant_conv_kernel=0 model.quantizer.code_dim=8",
    "model.backbone=seanet": SEANET,
    "model.backbone=seanet_vocos": f"{VOCOS} {SEANET} model.vocos.hop=8 model.backbone=seanet_vocos",
    "model.backbone=vocos": VOCOS,
    "model.per_level_weights": "model.kind=depth",
    "model.normalise_losses": "model.kind=unified",
    "model.quant_conv_kernel=0": "model.quantizer.code_dim=8",
    "model.quantizer.anneal": "model.quantizer.kind=gumbel",
    "model.quantizer.projections": "model.quantizer.kind=residual",
    "model.quantizer.kind=fsq": "model.quantizer.levels=[3,4,5]",
    "model.quantizer.kind=multiscale": "model.quantizer.scales=[1,2,16]",
    "model.seanet": SEANET,
    "model.seanet.odd_trim": "model.seanet.causal=false",
    "model.video": VIDEOS,
    "model.video.causal": "data.transform.frames=5 model.attention=true loss.perceptual.weight=1",
    "model.video.front": "data.transform.frames=5",
    "model.video.layers=cosmos": "data.transform.frames=5 model.attention=true model.video.causal=true "
    "loss.adversarial.adaptive=false",
    "model.vit": VIT,
    "model.vit.latent_tokens": "model.vit.head=linear",
    "model.vocos": VOCOS,
}
"""What a setting, or one value of it, needs besides."""


def settings(config: type, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Every setting by its dotted name, with its type (each, if there are several) and its default."""
    kinds = get_type_hints(config)
    for field in fields(config):
        name, kind = prefix + field.name, kinds[field.name]
        parts = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
        for part in parts:
            if is_dataclass(part):
                yield from settings(part, f"{name}.")  # type: ignore[arg-type]
            yield name, part, field.default


def choices(config: type) -> Iterator[tuple[str, str]]:
    """Every setting that has choices, by its dotted name, with each value that isn't its default."""
    for name, kind, default in settings(config):
        for value in _values(kind):
            if value != default:
                yield name, str(value).lower() if isinstance(value, bool) else str(value)


def _values(kind: Any) -> tuple[Any, ...]:
    if kind is bool:
        return (False, True)
    if get_origin(kind) is Literal:
        return get_args(kind)
    if get_origin(kind) is list:
        return tuple(f"[{value}]" for value in _values(get_args(kind)[0]))
    return ()


def settings_of(stage: str) -> list[str]:
    """NAME=VALUE of each row of a stage that changes one setting."""
    found = [(name, f"{name}={value}") for name, value in choices(CONFIGS[stage])]
    kept = [row for name, row in found if not known(name, row, NOT_HERE)]
    return kept + FURTHER[stage].split()


def known(name: str, row: str, where: Any) -> list[str]:
    """The keys of a table that are this setting, a block that has it, or this value of it."""
    return [key for key in where if row == key or f"{name}.".startswith(f"{key}.")]


RIDERS = (
    "loss.adversarial.blur",
    "loss.adversarial.lecam",
    "loss.adversarial.loss",
    "loss.adversarial.norm",
    "loss.adversarial.ramp",
    "loss.adversarial.spectral_norm",
    "loss.pixel",
    "model.attention",
    "model.attention_dropout",
    "model.attention_middle",
    "model.dropout",
    "model.key_value_heads",
    "model.label_smoothing",
    "model.pixel_range",
    "model.tied",
    "model.z_loss",
    "optimizer.clip",
    "optimizer.decay",
    "optimizer.ema_decay",
    "run.kernels",
    "run.tf32",
)
"""Settings that go with any other: they ride on rows that are there anyway, to save time."""


def _rows(stage: str, alone: Iterable[str], carriers: Iterable[str]) -> list[str]:
    """Rows of their own, rows that carry the riders, and one for each setting that is in none of these."""
    settings, carrying = settings_of(stage), list(carriers)
    riders = [one for one in settings if one.partition("=")[0] in RIDERS]
    for number, rider in enumerate(riders):
        place = number % len(carrying)
        if rider.partition("=")[0] + "=" in carrying[place]:
            place = (place + 1) % len(carrying)
        carrying[place] += f" {rider}"
    rows = [*alone, *carrying]
    there = {one for row in rows for one in row.split()}
    return [*rows, *(one for one in settings if one not in there)]


def _pairs(*parts: Iterable[str]) -> list[str]:
    return [" ".join(pair) for pair in itertools.product(*parts)]


KINDS: tuple[str, ...] = get_args(get_type_hints(PriorModelConfig)["kind"])
QUANTIZERS: tuple[str, ...] = get_args(get_type_hints(QuantizerConfig)["kind"])

ROWS = {
    "tokenizer": _rows(
        "tokenizer",
        alone=[
            *_pairs(["run.precision=bf16", "run.precision=fp16"], ["activation_checkpointing=true"]),
            "model.quantizer.kind=ibq model.quantizer.anneal=5 freeze=[encoder]",
            "model.quantizer.learning=moving_average model.quantizer.revive_after=1 model.quantizer.start=batch "
            "model.quantizer.gradient=rotation freeze=[decoder]",
            "model.quantizer.l2_normalise=true model.quantizer.start=kmeans model.quantizer.beta_placement=legacy",
            "model.quantizer.reparametrise=affine freeze=[quantizer]",
            "model.conv_plus.downsample=pool model.conv_plus.upsample=nearest model.conv_plus.adaptive_norm=false "
            "model.conv_plus.shortcut=inner loss.discriminators=further",
            "model.vit.positions=sincos model.vit.head=linear data.micro_batch=2 run.log_every=1",
            "model.vit.latent_tokens=5 loss.perceptual.precision=fp32 run.bind_cores=false compile_fallback=true",
            "model.seanet.shortcut=input model.seanet.activation=snake model.seanet.weight_norm=false "
            "model.seanet.padding=reflect",
            "model.seanet.causal=false model.seanet.odd_trim=true model.seanet.tanh=true",
            "model.vocos.attention=true loss.balance=gradient loss.adversarial.discriminator=periods "
            "loss.adversarial.reduction=sum",
            "model.video.by_frame=true model.video.factorised=true loss.adversarial.per_frame=true",
            "loss.adversarial.penalty=10 loss.adversarial.penalty_fake=10 channels_last=true",
            "loss.perceptual.fraction=0.5 model.quant_conv_kernel=0 loss.adversarial.adaptive=false",
            "loss.perceptual.net=alex model.quant_conv_kernel=3 loss.adversarial.weight=0",
            "loss.semantic.at=codes loss.semantic.form=contrastive loss.semantic.unit_length=true",
            "loss.semantic.at=decoder loss.semantic.projector=linear run.precision=bf16",
            "loss.semantic.form=margin loss.semantic.adaptive=true",
            "loss.adversarial.discriminator=maskbit loss.adversarial.augment.colour=true "
            "loss.adversarial.consistency=4 loss.logits.weight=0.1",
        ],
        carriers=[
            *(f"model.quantizer.kind={kind} run.precision=bf16" for kind in QUANTIZERS),
            *_pairs(["run.precision=bf16", "run.precision=fp16"], ["loss.adversarial.adaptive=false"]),
        ],
    ),
    "prior": _rows(
        "prior",
        alone=_pairs(["model.kind=masked", "model.order=random"], ["model.condition=text", "model.code_noise=0.1"]),
        carriers=_pairs(
            (f"model.kind={kind}" for kind in KINDS),
            ["run.precision=bf16", "model.condition=none activation_checkpointing=true data.micro_batch=2"],
        ),
    ),
    "sampler": [
        *_pairs((f"model.kind={kind}" for kind in KINDS if kind != "unified"), ["given", "guidance=3 top_k=5 bf16"]),
        "guidance=3 guidance_schedule=linear min_p=0.1",
        "guidance=3 guidance_schedule=cosine guidance_until=0.5 top_p=0.9 final_temperature=0.5",
        "guidance=3 guidance_schedule=power-cosine guidance_power=2.75",
        "temperature=0",
        "model.kind=masked order=halton",
        *_pairs(["model.head=bits", "model.head=factors"], ["given", "model.kind=masked guidance=3 bf16"]),
        "model.head=bits guidance=3 bit_steps=[2,3] bf16",
        "graph model.head=factors guidance=3",
        "model.condition=text guidance=3",
        "graph model.architecture=olmo2 guidance=3 top_k=5 bf16",
        *_pairs(["graph", "graph model.kind=depth"], ["given", "guidance=3 top_k=5 bf16", "top_p=0.9 temperature=0.5"]),
    ],
}
"""Every row by its stage: settings NAME=VALUE; of samplers also `given` (half of the codes), `bf16` (weights) and
`graph` (by the steps that CUDA graphs are made of)."""


def options(stage: str, row: str) -> list[str]:
    """The options of a training that are a row, with what it needs."""
    own = row.split()
    needed = [NEEDS[key] for one in own for key in known(one.partition("=")[0], one, NEEDS)]
    every = dict(one.split("=", 1) for one in " ".join([SMALL[stage], *needed, *own]).split())
    if every.get("data.transform.kind") == "sounds":
        every = {name: value for name, value in every.items() if name not in PICTURES_ONLY}
    elif stage == "tokenizer" and every.get("model.backbone") != "vit":
        every = dict(one.split("=", 1) for one in CONVOLUTIONS.split()) | every
    return [part for name, value in every.items() for part in (f"--{name}", value)]
