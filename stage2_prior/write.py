"""Write texts: `python -m stage2_prior.write --prior RUN --prompt "a three" [--count 4] [--temperature 0.8]`.

The prior is a unified one (model.kind=unified); it goes on from the prompt until its text ends. The texts are printed,
a line for each, and with --out written to a JSON file.
"""

import json
from pathlib import Path

from launch.command.cli import one_line, parse, run
from stage2_prior.config.texts import WriteConfig


def main() -> None:
    """The command."""
    config = parse(WriteConfig, prog="python -m stage2_prior.write")
    from launch.files.outputs import try_file

    try_file("out", config.out, inputs=(config.prompts,))
    from launch.files.atomic import write_file
    from stage2_prior.sampling.texts import write

    written = []
    for prompt, text in write(config):
        written.append({"prompt": prompt, "text": text})
        print(one_line(prompt + text, 10_000), flush=True)
    if config.out is not None:
        write_file(Path(config.out), json.dumps(written, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    run(main)
