"""The pipeline as a list: which command makes what. launch.stages.runner runs it, launch.report reads its output.

OUT/tokenizer-run/   stage one's run folder          OUT/evaluation/tokenizer.json, reconstructions.png
OUT/tokenizer/       the released tokenizer           OUT/evaluation/sounds/ of sounds; OUT/evaluation/prior.json
OUT/codes/{train,held_out}/   code shards             OUT/samples/   pictures, grid.png
OUT/prior-run/       stage two's run folder           OUT/stages/*.json   what was done, with which options
OUT/metrics.json     all figures                      OUT/report.html
OUT/codes/redrawn/   what the prior draws, and        OUT/decoder-run/, OUT/decoder/   the decoder tuned on it
OUT/data/            a sample set that is made        OUT/prediction/     given clips and how they go on
OUT/text-tokenizer/  of a unified prior's texts       OUT/captions/       held-out samples and its texts of them
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from launch.command.checks import at_least
from launch.command.cli import UserError
from launch.files.inputs import settings_of
from launch.stages import unified
from launch.stages.decoder import decoder_stages
from launch.stages.stage import Stage, options

ROOT = Path(__file__).resolve().parents[2]
"""The folder that holds the packages, the recipes and the sample sets."""

SAMPLE_SETS = ("mnist", "emoji", "speech", "moving_digits", "captioned_digits", "named_emoji")
MADE = {
    "moving_digits": ("mnist", "videos"),
    "captioned_digits": ("mnist", "pictures"),
    "named_emoji": ("emoji", "pictures"),
}
"""Sample sets that are packed from a shipped one: which, and the kind of their samples."""

LICENCES = {"speech": "cc-by-sa-3.0"}
"""Of tokenizers of sample sets whose data ask for the same licence; else apache-2.0."""

SHORT_STEPS, SHOWN = 20, 8
SETS = {"moving_digits": {"clips": 18_000}, "captioned_digits": {"count": 27_000}}
SHORT_SETS = {"moving_digits": {"clips": 450}, "captioned_digits": {"count": 1000}}
"""Sizes of made sets, and with `short`."""
A_CLASS, A_PROMPT = 50, 3
"""Samples drawn of each class, or of each prompt of a recipe's prompts.txt."""
VIDEOS_MEASURED, VIDEOS_CLASSIFIED = 100, 4000
"""Held-out clips on which a tokenizer is measured, and clips that classifiers are fitted to, at most."""


@dataclass(frozen=True)
class PipelineConfig:
    """Run the whole pipeline on one machine: tokenizer, release, codes, prior, samples, evaluations, report."""

    data: str = "mnist"
    """The sample set: mnist, emoji, speech, moving_digits, captioned_digits or named_emoji; also names the default of
    recipe, train and held_out."""
    processes: int = 1
    """Ranks of the stages that can share their work."""
    out: str | None = None
    """Folder for everything; null: runs/quickstart-DATA. Stages that are finished there are reused."""
    recipe: str | None = None
    """Folder with tokenizer.yaml and prior.yaml; null: launch/recipes/DATA."""
    train: str | None = None
    """Index of the training samples; null: the sample set's."""
    held_out: str | None = None
    """Index of the held-out samples; null: the sample set's."""
    count: int | None = None
    """Samples drawn of each class, or of each prompt of the recipe; null: as its sample.yaml says, else 50 of a class,
    3 of a prompt."""
    masked: bool = False
    """Train a masked prior over the same codes too; its samples stand beside the other's in the report."""
    short: bool = False
    """A few steps of everything, to see that it works; the pictures will be bad."""

    def __post_init__(self) -> None:
        at_least(1, self, "processes", "count")
        if self.data not in SAMPLE_SETS and None in (self.recipe, self.train, self.held_out):
            raise ValueError(
                f"data={self.data} is no sample set: use one of {', '.join(SAMPLE_SETS)}, "
                "or set recipe, train and held_out"
            )
        name = Path(self.recipe or "").name
        if name in SAMPLE_SETS and name != self.data and self.train is None:
            raise ValueError(
                f"recipe={self.recipe} is for the sample set {name}, not for data={self.data}: set data={name}, or "
                "train and held_out"
            )

    @property
    def folder(self) -> Path:
        """Where everything goes."""
        several = f"-{self.processes}processes" if self.processes > 1 else ""
        short = "-short" if self.short else ""
        return Path(self.out or f"runs/quickstart-{self.data}{several}{short}")

    @property
    def recipe_folder(self) -> Path:
        """Where tokenizer.yaml and prior.yaml lie."""
        return Path(self.recipe) if self.recipe else _shipped("launch", "recipes", self.data)

    def index(self, part: str) -> Path:
        """The index of `train` or `held_out`."""
        given = self.train if part == "train" else self.held_out
        if given is None and self.data in MADE:
            return self.folder / "data" / f"{part}.json"
        return Path(given) if given else _shipped("data", "samples", self.data, f"{part}.json")

    @cached_property
    def unified(self) -> bool:
        """Whether the recipe's prior is of texts and codes in one vocabulary."""
        try:
            model = settings_of(self.recipe_folder / "prior.yaml").get("model")
        except UserError:  # told where the file is read as a configuration
            return False
        return isinstance(model, dict) and model.get("kind") == "unified"

    @property
    def made(self) -> bool:
        """Whether the sample set is packed first."""
        return self.data in MADE and None in (self.train, self.held_out)

    @cached_property
    def kind(self) -> str:
        """Kind of the samples, as the training index says."""
        if self.made:
            return MADE[self.data][1]
        index = self.index("train")
        return str(settings_of(index).get("kind", "pictures")) if index.suffix == ".json" else "pictures"


def _shipped(*parts: str) -> Path:
    """A path inside the project, relative where called from its root: records then name no folder of the machine."""
    return Path(*parts) if Path.cwd() == ROOT else ROOT.joinpath(*parts)


def stages(config: PipelineConfig) -> list[Stage]:
    """The commands in their order. Raises UserError where a recipe or an index is missing."""
    needed = [config.recipe_folder / f"{part}.yaml" for part in ("tokenizer", "prior")]
    for path in (*needed, *([] if config.made else [config.index("train"), config.index("held_out")])):
        if not path.is_file():
            raise UserError(
                f"{path} is missing: name an existing --recipe, --train and --held_out, or use --data mnist"
            )
    if config.masked and config.unified:
        raise UserError(f"masked=true is not supported with {needed[1]}, a unified prior: leave it out")
    texts = [unified.text_tokenizer(config.folder)] if config.unified else []
    masked = _second(config, "-masked", model__kind="masked") if config.masked else []
    codes = [_codes(config, "train", "training"), _codes(config, "held_out", "held-out")]
    prior, *sampling = _second(config)
    return [*_data(config), *_first(config), *codes, *texts, prior, *_decoder(config), *sampling, *masked]


def _data(config: PipelineConfig) -> list[Stage]:
    """What packs a sample set that is made of a shipped one."""
    if not config.made:
        return []
    source = _shipped("data", "samples", MADE[config.data][0])
    about = {"name": config.data, "licence": settings_of(source / "train.json").get("licence", "")}
    own: dict[str, Any] = {"kind": config.data} | (SHORT_SETS if config.short else SETS).get(config.data, {})
    if config.data == "named_emoji":
        own = {"kind": "tars", "captions": source / "names.json"}
    words = options(**own, **about)
    arguments = (str(source), str(config.folder / "data"), *words)
    indexes = (config.index("train"), config.index("held_out"))
    reads = (source / "train.json", source / "held_out.json")
    return [Stage("data", f"make the {config.kind}", "data.pack", arguments, makes=indexes, reads=reads)]


def _first(config: PipelineConfig) -> list[Stage]:
    out, train, held_out = config.folder, config.index("train"), config.index("held_out")
    recipe, run, tokenizer = config.recipe_folder / "tokenizer.yaml", out / "tokenizer-run", out / "tokenizer"
    figures, pictures = out / "evaluation" / "tokenizer.json", out / "evaluation" / "reconstructions.png"
    shown: dict[str, Any] = {"pictures": pictures}
    if config.kind in ("sounds", "videos"):
        shown |= {config.kind: out / "evaluation" / config.kind, "picture_count": SHOWN}
    if config.kind == "videos":
        shown |= {"samples": VIDEOS_MEASURED, "batch_size": 16}
    few = {"steps": SHORT_STEPS, "data__early_steps": 0, "evaluate_samples": 64, "run__log_every": 5}
    short = few if config.short else {}
    return [
        Stage(
            "tokenizer",
            "train the tokenizer",
            "stage1_tokenizer.train",
            options(config=recipe, run__folder=run, run__seed=0, data__index=train, data__held_out=held_out, **short),
            makes=(run / "config.yaml",),
            reads=(recipe, train, held_out),
            processes=config.processes,
        ),
        Stage(
            "release",
            "release the tokenizer",
            "stage1_tokenizer.release",
            options(run=run, out=tokenizer, licence=LICENCES.get(config.data, "apache-2.0")),
            makes=(tokenizer / "model.safetensors",),
        ),
        Stage(
            "tokenizer-evaluation",
            f"evaluate the tokenizer on held-out {config.kind}",
            "stage1_tokenizer.evaluate",
            options(tokenizer=tokenizer, data=held_out, out=figures, **shown),
            makes=(figures, pictures),
            reads=(held_out,),
        ),
    ]


def _codes(config: PipelineConfig, part: str, title: str) -> Stage:
    index, codes = config.index(part), config.folder / "codes" / part
    return Stage(
        f"codes-{part}",
        f"encode the {title} {config.kind}",
        "stage2_prior.encode",
        options(tokenizer=config.folder / "tokenizer", data=index, out=codes),
        makes=(codes / "index.json",),
        reads=(index,),
        processes=config.processes,
    )


def _decoder(config: PipelineConfig) -> list[Stage]:
    """The decoder's post-training, where the recipe has a decoder.yaml."""
    indexes = config.index("train"), config.index("held_out")
    short = {"steps": SHORT_STEPS, "evaluate_samples": 64, "run__log_every": 5} if config.short else {}
    about: dict[str, Any] = {"processes": config.processes, "licence": LICENCES.get(config.data, "apache-2.0")}
    return decoder_stages(config.folder, config.recipe_folder / "decoder.yaml", *indexes, short=short, **about)


def _second(config: PipelineConfig, suffix: str = "", **others: str) -> list[Stage]:
    out, train, held_out = config.folder, config.index("train"), config.index("held_out")
    tokenizer, run, samples = out / "tokenizer", out / f"prior-run{suffix}", out / f"samples{suffix}"
    recipe, sampling, prompts = (config.recipe_folder / name for name in ("prior.yaml", "sample.yaml", "prompts.txt"))
    codes, held_out_codes = (out / "codes" / part / "index.json" for part in ("train", "held_out"))
    figures = out / "evaluation" / f"prior{suffix}.json"
    data = {"tokenizer": tokenizer, "data__index": codes, "data__held_out": held_out_codes}
    if config.unified:
        data["model__unified__text_tokenizer"] = unified.text_tokenizer(out).makes[0]
    short = {"steps": SHORT_STEPS, "run__log_every": 5} if config.short else {}
    of = "prompt" if prompts.is_file() else "class"
    own: dict[str, Any] = {"config": sampling} if sampling.is_file() else {"guidance": 3}
    usual = settings_of(sampling).get("count") if sampling.is_file() else None
    count = config.count or usual or (A_CLASS if of == "class" else A_PROMPT)
    count = (2 if of == "class" else 1) if config.short else count
    own |= {"prompts": prompts} if prompts.is_file() else {}
    measured: dict[str, Any] = {"samples": samples, "data": train, "held_out": held_out}
    if config.unified:
        measured = unified.measured(config.data, config.kind, samples, train, held_out)
    elif config.kind == "pictures":
        measured |= {"reference": held_out}
    measured |= {"limit": VIDEOS_CLASSIFIED} if config.kind == "videos" else {}
    tuned = (config.recipe_folder / "decoder.yaml").is_file() and not suffix  # on what the first prior draws
    decoder = out / "decoder" if tuned else tokenizer
    predictions = _prediction(config, suffix, run)
    measured |= {"predictions": predictions[0].makes[0].parent} if predictions else {}
    return [
        Stage(
            f"prior{suffix}",
            f"train the {suffix[1:]} prior" if suffix else "train the prior",
            "stage2_prior.train",
            options(config=recipe, run__folder=run, run__seed=0, **data, **others, **short),
            makes=(run / "prior" / "config.json",),
            reads=(recipe,),
            processes=config.processes,
        ),
        Stage(
            f"samples{suffix}",
            f"sample {count} {config.kind} of each {of}",
            "stage2_prior.sample",
            options(**own, prior=run, tokenizer=decoder, out=samples, count=count),
            makes=(samples / "grid.png",),
            reads=tuple(path for path in (sampling, prompts) if path.is_file()),
            processes=config.processes,
        ),
        *predictions,
        *([unified.captions(out, held_out)] if config.unified else []),
        Stage(
            f"prior{suffix}-evaluation",
            "evaluate the prior and its samples",
            "stage2_prior.evaluate",
            options(prior=run, codes=held_out_codes, **measured, out=figures),
            makes=(figures,),
            reads=(train, held_out),
        ),
    ]


def _prediction(config: PipelineConfig, suffix: str, run: Path) -> list[Stage]:
    """What goes on from held-out clips, where the recipe has a predict.yaml."""
    recipe, given = config.recipe_folder / "predict.yaml", config.index("held_out")
    if not recipe.is_file():
        return []
    out, tokenizer = config.folder / f"prediction{suffix}", config.folder / "tokenizer"
    words = options(config=recipe, prior=run, tokenizer=tokenizer, given=given, out=out)
    title, makes = "go on from given frames", (out / "grid.png",)
    return [Stage(out.name, title, "stage2_prior.inpaint", words, makes=makes, reads=(recipe, given))]
