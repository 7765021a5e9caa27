"""The stages of launch.stages.listing as jobs: what each needs, what its jobs get, whether it is done.

Over what launch.stages.listing lists, a chain's folder has OUT/logs/ and OUT/jobs.json, and its OUT/stages/*.json are
written by launch.stages.records. `python -m launch.stages.jobs --recipe DIR --out OUT` is the last stage: metrics.json
and the report.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from launch.command.cli import UserError, parse, run
from launch.files.atomic import write_atomically
from launch.stages import records as attempts
from launch.stages.listing import PipelineConfig, stages
from launch.stages.resources import ClusterConfig, Resources, load

NEEDS = {
    "tokenizer": (),
    "release": ("tokenizer",),
    "tokenizer-evaluation": ("release",),
    "codes-train": ("release",),
    "codes-held_out": ("release",),
    "prior": ("codes-train", "codes-held_out"),
    "samples": ("prior",),
    "prior-evaluation": ("samples",),
    "report": ("tokenizer-evaluation", "prior-evaluation"),
}
"""The stages in their order, with those that must be done before."""

SCRIPTS = {
    "tokenizer-evaluation": "evaluate",
    "codes-train": "encode",
    "codes-held_out": "encode",
    "samples": "sample",
    "prior-evaluation": "evaluate_prior",
}
"""Batch scripts in launch/slurm with another name than their stage."""

TRAINS = ("tokenizer", "prior")
"""Stages that train: they checkpoint, are requeued and take --nodes."""

SHARED = ("codes-train", "codes-held_out", "samples")
"""Stages that an array job may share; one more job, NAME-index, then writes what lists all parts."""


@dataclass(frozen=True)
class Stage:
    """One command of the chain."""

    name: str
    """Its name, under which its state, log and job are found."""
    module: str
    """The module that is started."""
    arguments: tuple[str, ...]
    """Its arguments, before those of the cluster's configuration."""
    needs: tuple[str, ...] = ()
    """Stages that must be done before."""
    indexes: tuple[str, ...] = ()
    """Shard indexes it reads that the chain doesn't write; the preflight looks for them."""
    makes: tuple[Path, ...] = ()
    """Files that are there once it is done."""
    script: str = ""
    """Its batch script in launch/slurm."""
    resources: Resources = Resources()  # noqa: RUF009
    """What its jobs get."""

    @property
    def trains(self) -> bool:
        """Whether it is a training run, with checkpoints to go on from."""
        return self.name in TRAINS

    @property
    def ranks(self) -> bool:
        """Whether it uses several ranks; else it is one process."""
        return self.trains or self.name.removesuffix("-index") in SHARED

    @property
    def parts(self) -> int:
        """How many jobs share the work."""
        return (self.resources.parts or 1) if self.name in SHARED else 1

    def arguments_of(self, part: int, parts: int) -> list[str]:
        """The command's arguments for one of several jobs."""
        own = ["--part", str(part), "--parts", str(parts)] if parts > 1 else []
        return [*self.arguments, *(self.resources.arguments or []), *own]

    def missing(self, out: Path) -> list[int]:
        """Its parts that are not done."""
        return [key or 0 for key in self.keys if attempts.read(out, self.name, key)["state"] != "done"]

    @property
    def keys(self) -> Sequence[int | None]:
        """Under what its states are kept: one for each part, or None."""
        return range(self.parts) if self.parts > 1 else [None]


PACK = Stage("pack", "data.pack", (), script="pack.sbatch")
"""Pictures to shards: a job of its own, before the recipes, which name finished shards."""


@dataclass(frozen=True)
class Chain:
    """All stages of a recipe, in an order in which each comes after what it needs."""

    stages: tuple[Stage, ...]
    """The stages."""
    cluster: ClusterConfig
    """How they are submitted."""

    def stage(self, name: str) -> Stage:
        """One stage, or packing; UserError where there is none of this name."""
        for stage in (*self.stages, PACK):
            if stage.name == name:
                return stage
        raise UserError(f"there is no stage {name}: choose one of {', '.join(stage.name for stage in self.stages)}")

    def onwards(self, name: str) -> list[Stage]:
        """All stages but those that this one needs, directly or not. UserError where what they make isn't there."""
        before = set(self.stage(name).needs)
        for stage in reversed(self.stages):
            if stage.name in before:
                before.update(stage.needs)
        chosen = [stage for stage in self.stages if stage.name not in before]
        needed = {need for stage in chosen for need in stage.needs} & before
        for stage in self.stages:
            for path in stage.makes if stage.name in needed else ():
                if not path.exists():
                    raise UserError(f"--from {name} needs {path}, which the stage {stage.name} makes: begin there")
        return chosen


def read(recipe: Path, out: Path, *, shared: bool = True) -> Chain:
    """The chain of launch/recipes/NAME into the folder `out`; without array jobs where `shared` is False.

    UserError for a recipe with mistakes or without data.
    """
    cluster = load(recipe)
    every = _stages(recipe, out, cluster, shared)
    names = [stage.name for stage in every]
    if unknown := [name for name in cluster.stages if name not in names]:
        raise UserError(f"{recipe}/cluster.yaml: stages.{unknown[0]} is no stage: choose one of {', '.join(names)}")
    return Chain(tuple(every), cluster)


def _pipeline(recipe: Path, out: Path) -> PipelineConfig:
    """The recipe's own data, as launch.stages.listing wants it named."""
    file = recipe / "tokenizer.yaml"
    block = (yaml.safe_load(file.read_text()) or {}).get("data") or {} if file.exists() else {}
    index, held_out = block.get("index"), block.get("held_out")
    if not index or not held_out:
        raise UserError(f"{file} must name data.index and data.held_out: the chain trains and evaluates on them")
    return PipelineConfig(data=recipe.name, recipe=str(recipe), train=index, held_out=held_out, out=str(out))


def _stages(recipe: Path, out: Path, cluster: ClusterConfig, shared: bool) -> list[Stage]:
    listed = {stage.name: stage for stage in stages(_pipeline(recipe, out))}
    report = ("launch.stages.jobs", ("--recipe", str(recipe), "--out", str(out)), ())
    every: list[Stage] = []
    last: dict[str, str] = {}
    for name, before in NEEDS.items():
        own = listed.get(name)
        indexes = tuple(str(path) for path in own.reads if path.suffix == ".json") if own else ()
        module, arguments, indexes = (own.module, own.arguments, indexes) if own else report
        resources = (Resources() if shared else Resources(parts=1)).over(cluster.resources(name))
        makes = own.makes if own and resources.module is None else ()
        if resources.module is not None:
            folder = ("--run.folder", str(out / f"{name}-run")) if name in TRAINS else ()
            module, arguments, indexes = resources.module, folder, ()
        needs, script = tuple(last[need] for need in before), f"{SCRIPTS.get(name, name)}.sbatch"
        stage = Stage(name, module, arguments, needs, indexes, makes, script, resources)
        if not stage.ranks:  # one process, whatever every stage gets
            stage = replace(stage, resources=Resources(nodes=1, processes=1).over(resources))
        every.append(stage)
        last[name] = name
        if stage.parts > 1:
            last[name] = f"{name}-index"
            alone = Resources(parts=1).over(resources)
            if name != "samples" and resources.module is None:
                codes = arguments[arguments.index("--out") + 1]
                module, arguments = "stage2_prior.codes.shares", ("--out", codes, "--parts", str(stage.parts))
            every.append(Stage(last[name], module, arguments, (name,), (), makes, script, alone))
    return every


@dataclass(frozen=True)
class FinishConfig:
    """Write metrics.json and the report of a chain."""

    recipe: Path
    """The recipe's folder."""
    out: Path
    """The chain's folder."""


def main(argv: Sequence[str] | None = None) -> int:
    """Write OUT/metrics.json and OUT/report.html."""
    from launch import pipeline, report

    options = parse(FinishConfig, argv, prog="python -m launch.stages.jobs")
    config = _pipeline(options.recipe, options.out)
    metrics = pipeline.collect(config, stages(config))
    write_atomically(options.out / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    print(f"report at {report.write(options.out)}")
    return 0


if __name__ == "__main__":
    run(main)
