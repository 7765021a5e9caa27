"""The sample set `speech`: short telephone prompts in five languages, from Debian's packages of Asterisk's sounds."""

import gzip
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.packing.splits import shuffled
from data.samples.debian import debian_contents
from data.samples.sample_set import SEED, SampleSet
from data.shards.sample import DamagedSampleError
from data.shards.writer import fit_key
from data.sounds.clips import to_int16
from data.sounds.convert import encode
from data.sounds.files import SoundFile
from launch.command.cli import UserError

VERSION, RATE = "1.6.1-1", 8000
LANGUAGES = {"en": "English", "es": "Spanish", "fr": "French", "it": "Italian", "ru": "Russian"}
SHORTEST, LONGEST = 2000, 8192
"""Samples of a clip: 0.25 to 1.024 s."""
MOST = 205
"""Clips of a language, at most: what keeps the set below 8 MB."""
_QUIET, _MARGIN = 0.01 * 32768, 400
"""What is quieter at both ends is cut off, but for so many samples (50 ms)."""
PACKAGES = {
    "asterisk-core-sounds-en-wav": "2be3ea287d83299d143815fa804f11179a75b7affd4a758b98b55f5afc18a35d",
    "asterisk-core-sounds-en": "973e797d28e37fa6ca3c0a9d6fa717e77cf1268ae916bf09fd3503113cdffa50",
    "asterisk-core-sounds-es-wav": "9283a09a6d56fccdcc2bcfe86c48f0f844289cfbd46a3184d8785a6f7f569903",
    "asterisk-core-sounds-es": "9afdab7f559f036649fb406e625899306ca1004df8ebe39c30bfbd5912d66f74",
    "asterisk-core-sounds-fr-wav": "8d4e1bc32ed5ba7fbda40841ca1825ed20cc6232724a473c90f8bb0e53e6073e",
    "asterisk-core-sounds-fr": "04c82c78c570c43a7136cbc5e2488d0c470b775468dff9fbce4a131b18cf1056",
    "asterisk-core-sounds-it-wav": "5a26638089e134b8ac39363fe249c5c93c50cd8bfdc9b2499ae61ec4a35e2fcb",
    "asterisk-core-sounds-it": "3884d9457e12f21caa018c18f0d587df5d53ebea14b673d8453a134c5941ab3b",
    "asterisk-core-sounds-ru-wav": "ccbfaebfa450b7a9ddf644ae0f3d1e9017d5df7c0aebe816e946345589d38201",
    "asterisk-core-sounds-ru": "28a61616bb0cd3345a7ea532dec4df9f071e5d0fa9f8c1a563ea9669002f39ab",
}
"""Packages of Debian at VERSION, each with its SHA-256."""
_LICENCE = """The sounds are telephone prompts of the Asterisk core sounds 1.6.1, as Debian has them in its packages
asterisk-core-sounds-{en,es,fr,it,ru}-wav 1.6.1-1; the texts are those of the packages without -wav.

en, es: spoken by Allison Smith (http://www.theivrvoice.com), with financial contributions by Digium, Inc.;
    Creative Commons Attribution-ShareAlike 3.0 (CC-BY-SA-3.0)
fr: spoken by June Wallack (http://www.junewallack.com), translated by Clod Patry, Kristopher Lalletti and June
    Wallack, with financial contributions by Digium, Inc., Unlimitel and BGM Informatique; CC-BY-SA-3.0
it: spoken by Carlo Flora (http://www.carloflora.com, http://www.segreterietelefoniche.it), translated by Silvia
    Petrin; Creative Commons Attribution 3.0 (CC-BY-3.0)
ru: provided by Maxim Topal (http://www.ivrvoice.ru); CC-BY-3.0

Changes: prompts of 0.25 to 1.024 s were chosen, with quiet ends cut off, and stored as FLAC without loss. Each clip,
whose name begins with its language, is under the licence of its original. The licences, as Debian's copyright file has
them, follow.

"""


@dataclass(frozen=True)
class Prompt:
    """One recorded prompt."""

    language: str
    name: str
    """Its name, which is the same in all languages: `digits/7`."""
    samples_T: np.ndarray
    """int16, at RATE."""
    text: str


def speech(folder: Path) -> SampleSet:
    """Prompts of 0.25 to 1.024 s with their texts; the class is the language.

    Held out is a tenth of the prompts, in all languages that have them. Left out: tones and noises (texts in brackets),
    prompts without a text, all but one of equal ones, and what is over MOST in a language.
    """
    files = {name: contents(name, folder) for name in PACKAGES}
    prompts: list[Prompt] = []
    seen: set[bytes] = set()
    for language in LANGUAGES:
        for prompt in prompts_of(files, language):
            if SHORTEST <= len(prompt.samples_T) <= LONGEST and prompt.samples_T.tobytes() not in seen:
                seen.add(prompt.samples_T.tobytes())
                prompts.append(prompt)
    names = sorted({prompt.name for prompt in prompts})
    rank = dict(zip(names, shuffled(len(names), SEED).argsort().tolist(), strict=True))
    kept = []
    for language in LANGUAGES:
        of = sorted((p for p in prompts if p.language == language), key=lambda prompt: rank[prompt.name])
        kept += of[:MOST]
    out = {name for name in names if rank[name] % 10 == 0}
    codes = list(LANGUAGES)
    return SampleSet(
        name="speech",
        classes=list(LANGUAGES.values()),
        source=f"Debian asterisk-core-sounds-{{{','.join(LANGUAGES)}}}-wav {VERSION}",
        licence_text=_LICENCE + licences(files["asterisk-core-sounds-en"]),
        keys=[f"{prompt.language}/{fit_key(prompt.name)}" for prompt in kept],
        labels=np.array([codes.index(prompt.language) for prompt in kept]),
        extension="flac",
        encode=lambda i: encode(kept[i].samples_T[None], RATE, "flac"),
        train_shards=8,
        kind="sounds",
        licence="CC-BY-SA-3.0 (en, es, fr) and CC-BY-3.0 (it, ru), see LICENSE",
        captions=[prompt.text for prompt in kept],
        held_out=np.array([prompt.name in out for prompt in kept]),
        meta={"sample_rate": RATE},
    )


def contents(package: str, folder: Path) -> dict[str, bytes]:
    """The package's files, name → bytes (data.samples.debian)."""
    return debian_contents(package, VERSION, PACKAGES[package], folder)


def prompts_of(files: dict[str, dict[str, bytes]], language: str) -> Iterator[Prompt]:
    """The prompts of a language that have a text, by name, without quiet ends."""
    package = f"asterisk-core-sounds-{language}"
    listed = gzip.decompress(files[package][f"usr/share/doc/{package}/core-sounds-{language}.txt.gz"])
    texts = texts_of(listed.decode("utf-8-sig"))
    for path, content in sorted(files[f"{package}-wav"].items()):
        match = re.fullmatch(r"usr/share/asterisk/sounds/[^/]+/(.+)\.wav", path)
        if match and match[1] in texts:
            try:
                with SoundFile(content) as file:
                    samples_CT = to_int16(file.read(0, file.frames))
            except DamagedSampleError:  # one of Russian has no samples
                continue
            if file.rate != RATE or len(samples_CT) != 1:
                raise UserError(f"{path} of {package}-wav has {file.rate} Hz: build with the package of {VERSION}")
            yield Prompt(language, match[1], trimmed(samples_CT[0]), texts[match[1]])


def texts_of(listed: str) -> dict[str, str]:
    """Text by name from lines `name: text`; those of tones and noises, which are in brackets, left out."""
    pairs = (line.partition(":") for line in listed.splitlines() if line.strip() and not line.startswith(";"))
    texts = {name.strip(): " ".join(text.split()) for name, _, text in pairs}
    return {name: text for name, text in texts.items() if text and not text.startswith("[")}


def trimmed(samples_T: np.ndarray) -> np.ndarray:
    """The samples without quiet ends."""
    loud = np.flatnonzero(np.abs(samples_T.astype(np.int32)) > _QUIET)
    return samples_T[max(0, loud[0] - _MARGIN) : loud[-1] + 1 + _MARGIN] if len(loud) else samples_T[:0]


def licences(files: dict[str, bytes]) -> str:
    """The texts of both licences in a package's copyright file."""
    text = next(content for name, content in files.items() if name.endswith("/copyright")).decode()
    kept = []
    for name in ("CC-BY-SA-3.0", "CC-BY-3.0"):
        found = re.search(rf"^License: {name}\n(?= \S)(.+?)(?=^\S|\Z)", text, re.MULTILINE | re.DOTALL)
        if found is None:
            raise UserError(f"the copyright file has no text of {name}: build with the packages of {VERSION}")
        lines = [line[1:] if line != " ." else "" for line in found[1].splitlines()]
        kept.append(f"{name}\n\n" + "\n".join(lines).strip() + "\n")
    return "\n".join(kept)
