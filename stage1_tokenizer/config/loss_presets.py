"""Losses of published trainers of sounds, by name (loss.preset)."""

from collections.abc import Mapping
from dataclasses import MISSING, fields, replace
from typing import Any, Literal, TypeVar

PresetName = Literal["dac", "encodec"]

_DAC: dict[str, Any] = {
    "channels": 32,
    "loss": "least_squares",
    "weight": 2.0,  # the generator's least squares have a factor 1/2 here: DAC's 1
    "feature_matching": 2.0,
    "reduction": "sum",
    "adaptive": False,
    "peak": 0.8,
}
_ENCODEC: dict[str, Any] = {
    "discriminator": "stft",
    "channels": 32,
    "loss": "hinge",
    "weight": 4.0,
    "feature_matching": 4.0,
    "adaptive": False,
}
PRESETS: dict[str, dict[str, Any]] = {
    "dac": {
        "terms": {"mel": {"weight": 15.0, "definition": "dac"}},
        "adversaries": [{"discriminator": "periods", **_DAC}, {"discriminator": "bands", **_DAC}],
        "balance": "none",
    },
    "encodec": {
        "terms": {"waveform": {"weight": 0.1}, "mel": {"weight": 2.0, "definition": "encodec"}},
        "adversaries": [_ENCODEC],
        "balance": "gradient",
    },
}
"""dac: conf/final of descript-audio-codec; encodec: config/solver/compression of audiocraft, whose weights differ from
the paper's. Their optimizers are not part of them: AdamW 1e-4 (0.8, 0.99), clipped at 1000 and the discriminators' at
10 (DAC); Adam 3e-4 (0.5, 0.9), not clipped (EnCodec)."""

Config = TypeVar("Config")


def filled(config: Config, values: Mapping[str, Any]) -> Config:
    """A dataclass with these values in the fields that are at their defaults."""
    plain = {}
    for field in fields(config):  # type: ignore[arg-type]
        if field.name in values:
            default = field.default if field.default_factory is MISSING else field.default_factory()
            if getattr(config, field.name) == default:
                plain[field.name] = values[field.name]
    return replace(config, **plain)  # type: ignore[type-var]


def merged(preset: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """A preset's terms with one's own over them, setting by setting; a number is a weight."""
    terms: dict[str, Any] = {name: dict(settings) for name, settings in preset.items()}
    for name, settings in own.items():
        given = settings if isinstance(settings, dict) else {"weight": settings}
        terms[name] = {**terms.get(name, {}), **given}
    return terms
