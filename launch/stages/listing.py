"""The pipeline as a list: which command makes what. launch.stages.runner runs it, launch.report reads its output.

OUT/tokenizer-run/   stage one's run folder          OUT/evaluation/tokenizer.json, reconstructions.png
OUT/tokenizer/       the released tokenizer           OUT/evaluation/sounds/ of sounds; OUT/evaluation/prior.json
OUT/codes/{train,held_out}/   code shards             OUT/samples/   pictures, grid.png
OUT/prior-run/       stage two's run folder           OUT/stages/*.json   what was done, with which options
OUT/metrics.json     all figures                      OUT/report.html
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from launch.command.checks import at_least
from launch.command.cli import UserError
from launch.files.inputs import settings_of
from launch.stages.resources import Resources

ROOT = Path(__file__).resolve().parents[2]
"""The folder that holds the packages, the recipes and the sample sets."""

SAMPLE_SETS = ("mnist", "emoji", "speech")

LICENCES = {"speech": "cc-by-sa-3.0"}
"""Of tokenizers of sample sets whose data ask for the same licence; else apache-2.0."""

SHORT_STEPS, SOUNDS_SHOWN = 20, 8


@dataclass(frozen=True)
class PipelineConfig:
    """Run the whole pipeline on one machine: tokenizer, release, codes, prior, samples, evaluations, report."""

    data: str = "mnist"
    """The sample set, mnist, emoji or speech; also names the default of recipe, train and held_out."""
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
    count: int = 50
    """Samples drawn of each class."""
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
        return Path(given) if given else _shipped("data", "samples", self.data, f"{part}.json")

    @cached_property
    def kind(self) -> str:
        """Kind of the samples, as the training index says."""
        index = self.index("train")
        return str(settings_of(index).get("kind", "pictures")) if index.suffix == ".json" else "pictures"


def _shipped(*parts: str) -> Path:
    """A path inside the project, relative where called from its root: records then name no folder of the machine."""
    return Path(*parts) if Path.cwd() == ROOT else ROOT.joinpath(*parts)


TRAINS = ("tokenizer", "prior")
"""Stages of a chain that train: they write checkpoints, are requeued and take --nodes."""

SHARED = ("codes-train", "codes-held_out", "samples")
"""Stages that an array job may share; one more job, NAME-index, then writes what lists all parts."""


@dataclass(frozen=True)
class Stage:
    """One command of the pipeline, or of a chain of jobs."""

    name: str
    """Short name, and that of its record OUT/stages/NAME.json, its log and its job."""
    title: str
    """What it does, for people."""
    module: str
    """The module that is started."""
    arguments: tuple[str, ...]
    """Its options, before those of the cluster's configuration."""
    makes: tuple[Path, ...] = ()
    """Files that are there once it is done."""
    reads: tuple[Path, ...] = ()
    """Files whose content decides the result: recipes and indexes."""
    processes: int = 1
    """Ranks it is launched on, on this machine."""
    needs: tuple[str, ...] = ()
    """Stages of a chain that must be done before."""
    script: str = ""
    """Its batch script in launch/slurm."""
    resources: Resources = Resources()  # noqa: RUF009
    """What its jobs get."""

    @property
    def trains(self) -> bool:
        """Whether it is a training run, with checkpoints to resume from."""
        return self.name in TRAINS

    @property
    def ranks(self) -> bool:
        """Whether it uses several ranks; else it is one process."""
        return self.trains or self.name.removesuffix("-index") in SHARED

    @property
    def parts(self) -> Sequence[int | None]:
        """The parts that several jobs share, under which its states are kept; [None] for one job."""
        count = (self.resources.parts or 1) if self.name in SHARED else 1
        return range(count) if count > 1 else [None]

    def arguments_of(self, part: int = 0, parts: int = 1) -> list[str]:
        """The command's arguments for one of several jobs."""
        own = ["--part", str(part), "--parts", str(parts)] if parts > 1 else []
        return [*self.arguments, *(self.resources.arguments or []), *own]


def stages(config: PipelineConfig) -> list[Stage]:
    """The commands in their order. Raises UserError where a recipe or an index is missing."""
    needed = [config.recipe_folder / f"{part}.yaml" for part in ("tokenizer", "prior")]
    for path in (*needed, config.index("train"), config.index("held_out")):
        if not path.is_file():
            raise UserError(
                f"{path} is missing: name an existing --recipe, --train and --held_out, or use --data mnist"
            )
    masked = _second(config, "-masked", model__kind="masked") if config.masked else []
    codes = [_codes(config, "train", "training"), _codes(config, "held_out", "held-out")]
    return [*_first(config), *codes, *_second(config), *masked]


def _first(config: PipelineConfig) -> list[Stage]:
    out, train, held_out = config.folder, config.index("train"), config.index("held_out")
    recipe, run, tokenizer = config.recipe_folder / "tokenizer.yaml", out / "tokenizer-run", out / "tokenizer"
    figures, pictures = out / "evaluation" / "tokenizer.json", out / "evaluation" / "reconstructions.png"
    shown: dict[str, Any] = {"pictures": pictures}
    if config.kind == "sounds":
        shown |= {"sounds": out / "evaluation" / "sounds", "picture_count": SOUNDS_SHOWN}
    short = {"steps": SHORT_STEPS, "evaluate_samples": 64, "run__log_every": 5} if config.short else {}
    return [
        Stage(
            "tokenizer",
            "train the tokenizer",
            "stage1_tokenizer.train",
            _options(config=recipe, run__folder=run, run__seed=0, data__index=train, data__held_out=held_out, **short),
            makes=(run / "config.yaml",),
            reads=(recipe, train, held_out),
            processes=config.processes,
        ),
        Stage(
            "release",
            "release the tokenizer",
            "stage1_tokenizer.release",
            _options(run=run, out=tokenizer, licence=LICENCES.get(config.data, "apache-2.0")),
            makes=(tokenizer / "model.safetensors",),
        ),
        Stage(
            "tokenizer-evaluation",
            f"evaluate the tokenizer on held-out {config.kind}",
            "stage1_tokenizer.evaluate",
            _options(tokenizer=tokenizer, data=held_out, out=figures, **shown),
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
        _options(tokenizer=config.folder / "tokenizer", data=index, out=codes),
        makes=(codes / "index.json",),
        reads=(index,),
        processes=config.processes,
    )


def _second(config: PipelineConfig, suffix: str = "", **others: str) -> list[Stage]:
    out, train, held_out = config.folder, config.index("train"), config.index("held_out")
    tokenizer, run, samples = out / "tokenizer", out / f"prior-run{suffix}", out / f"samples{suffix}"
    recipe, sampling = (config.recipe_folder / name for name in ("prior.yaml", "sample.yaml"))
    codes, held_out_codes = (out / "codes" / part / "index.json" for part in ("train", "held_out"))
    figures = out / "evaluation" / f"prior{suffix}.json"
    data = {"tokenizer": tokenizer, "data__index": codes, "data__held_out": held_out_codes}
    short = {"steps": SHORT_STEPS, "run__log_every": 5} if config.short else {}
    count = 2 if config.short else config.count
    own = {"config": sampling} if sampling.is_file() else {"guidance": 3}
    distances = {} if config.kind == "sounds" else {"reference": held_out}
    return [
        Stage(
            f"prior{suffix}",
            f"train the {suffix[1:]} prior" if suffix else "train the prior",
            "stage2_prior.train",
            _options(config=recipe, run__folder=run, run__seed=0, **data, **others, **short),
            makes=(run / "prior" / "config.json",),
            reads=(recipe,),
            processes=config.processes,
        ),
        Stage(
            f"samples{suffix}",
            f"sample {count} {config.kind} of each class",
            "stage2_prior.sample",
            _options(**own, prior=run, tokenizer=tokenizer, out=samples, count=count),
            makes=(samples / "grid.png",),
            reads=(sampling,) if sampling.is_file() else (),
            processes=config.processes,
        ),
        Stage(
            f"prior{suffix}-evaluation",
            "evaluate the prior and its samples",
            "stage2_prior.evaluate",
            _options(
                prior=run,
                codes=held_out_codes,
                samples=samples,
                data=train,
                held_out=held_out,
                **distances,
                out=figures,
            ),
            makes=(figures,),
            reads=(train, held_out),
        ),
    ]


def _options(**values: object) -> tuple[str, ...]:
    """Keyword arguments as options: `run__folder=x` is `--run.folder x`."""
    pairs = [(f"--{name.replace('__', '.')}", str(value)) for name, value in values.items()]
    return tuple(part for pair in pairs for part in pair)
