"""A recipe's chain of jobs: the stages of launch.stages.listing with what each needs and what its jobs get."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from launch.command.cli import UserError
from launch.files.inputs import settings_of
from launch.stages.listing import PipelineConfig, stages
from launch.stages.resources import ClusterConfig, Resources, load
from launch.stages.stage import Stage

NEEDS = {
    "tokenizer": (),
    "release": ("tokenizer",),
    "tokenizer-evaluation": ("release",),
    "codes-train": ("release",),
    "codes-held_out": ("release",),
    "text-tokenizer": ("codes-train",),
    "prior": ("codes-train", "codes-held_out", "text-tokenizer"),
    "redraw": ("prior",),
    "decoder": ("redraw",),
    "decoder-release": ("decoder",),
    "samples": ("prior", "decoder-release"),
    "prediction": ("prior",),
    "captions": ("prior",),
    "prior-evaluation": ("samples", "prediction", "captions"),
    "report": ("tokenizer-evaluation", "prior-evaluation"),
}
"""The stages in their order, with those that must be done before. Only recipes with a predict.yaml have prediction,
only those of unified priors text-tokenizer and captions, only those with a decoder.yaml redraw and the decoder's."""

BY_CHOICE = ("text-tokenizer", "redraw", "decoder", "decoder-release", "captions")

SCRIPTS = {
    "tokenizer-evaluation": "evaluate",
    "codes-train": "encode",
    "codes-held_out": "encode",
    "decoder": "tokenizer",
    "decoder-release": "release",
    "samples": "sample",
    "text-tokenizer": "evaluate_prior",
    "prediction": "evaluate_prior",
    "captions": "evaluate_prior",
    "prior-evaluation": "evaluate_prior",
}
"""Batch scripts in launch/slurm with another name than their stage."""

PACK = Stage("pack", "pack pictures", "data.pack", (), script="pack.sbatch")
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


def read(recipe: Path, out: Path, *, shared: bool = True, processes: int = 1, nodes: int | None = None) -> Chain:
    """The chain of launch/recipes/NAME into the folder `out`; without array jobs where `shared` is False.

    `processes` are the ranks of stages that run on this machine; `nodes` those of training stages, if not
    cluster.yaml's. UserError for a recipe with mistakes or without data.
    """
    cluster = load(recipe)
    listed = {stage.name: stage for stage in stages(configured(recipe, out, processes))}
    finish = ("--recipe", str(recipe), "--out", str(out))
    listed["report"] = Stage("report", "write the report", "launch.slurm.finish", finish)
    every: list[Stage] = []
    last: dict[str, str] = {}
    for name, before in NEEDS.items():
        if name not in listed:
            continue
        given = Resources(nodes=nodes if listed[name].trains else None, parts=None if shared else 1)
        needs = tuple(last[need] for need in before if need in last)
        every.append(_resourced(replace(listed[name], needs=needs), given.over(cluster.resources(name)), out))
        last[name] = name
        if (parts := len(every[-1].parts)) > 1:
            last[name] = f"{name}-index"
            every.append(_index(every[-1], last[name], parts))
    names = [stage.name for stage in every]
    if unknown := [name for name in cluster.stages if name not in names]:
        raise UserError(f"{recipe}/cluster.yaml: stages.{unknown[0]} is no stage: choose one of {', '.join(names)}")
    return Chain(tuple(every), cluster)


def configured(recipe: Path, out: Path, processes: int = 1) -> PipelineConfig:
    """The pipeline over the recipe's own data."""
    file = recipe / "tokenizer.yaml"
    block = settings_of(file).get("data") if file.exists() else None
    block = block if isinstance(block, dict) else {}
    index, held_out = block.get("index"), block.get("held_out")
    if not index or not held_out:
        raise UserError(f"{file} must name data.index and data.held_out: the chain trains and evaluates on them")
    return PipelineConfig(
        data=recipe.name, recipe=str(recipe), train=index, held_out=held_out, out=str(out), processes=processes
    )


def _resourced(stage: Stage, resources: Resources, out: Path) -> Stage:
    """A stage with what its jobs get, and the user's own command in place of its own."""
    if not stage.ranks:  # one process, whatever every stage gets
        resources = Resources(nodes=1, processes=1).over(resources)
    if resources.module is not None:
        folder = ("--run.folder", str(out / f"{stage.name}-run")) if stage.trains else ()
        stage = replace(stage, module=resources.module, arguments=folder, makes=(), reads=())
    return replace(stage, script=f"{SCRIPTS.get(stage.name, stage.name)}.sbatch", resources=resources)


def _index(stage: Stage, name: str, parts: int) -> Stage:
    """The job after an array job, which writes what lists all parts."""
    alone = replace(stage, name=name, needs=(stage.name,), reads=(), resources=Resources(parts=1).over(stage.resources))
    if stage.name == "samples" or stage.resources.module is not None:
        return alone
    codes = stage.arguments[stage.arguments.index("--out") + 1]
    return replace(alone, module="stage2_prior.codes.shares", arguments=("--out", codes, "--parts", str(parts)))
