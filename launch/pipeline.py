"""Run the pipeline's stages one after the other, reusing what is finished: `python -m launch.pipeline --data mnist`."""

from __future__ import annotations

from launch.command.cli import parse, run
from launch.stages.listing import PipelineConfig


def main() -> int:
    """Run every stage that isn't done, write metrics.json and the report; 0, or a failed stage's exit code."""
    config = parse(PipelineConfig, prog="python -m launch.pipeline")
    from launch.reporting import page
    from launch.stages import figures
    from launch.stages.listing import stages
    from launch.stages.runner import Runner

    every = stages(config)
    of = len(every) + 1
    with Runner(config.folder, "quickstart", keyed=True) as runner:
        if code := runner.run(every, of):
            return code
        runner.say(f"[{of}/{of}] write the report")
        if runner.worked or not (config.folder / figures.FILE).exists():  # else date and commit stay those of the work
            figures.write(config, every)
        path = page.write(config.folder)
    runner.say(f"done, report at {path}")
    return 0


if __name__ == "__main__":
    run(main, computes=False)
