"""A web page on this machine: `python -m stage2_prior.demo --tokenizer DIR [--prior DIR]`. It needs gradio.

Drop a picture to see its reconstruction, its codes as a heat map, and the neighbours of the code you click. With a
prior, a tab samples pictures of a class. With a tokenizer of sounds, drop a sound to hear it from its first codebooks;
with one of videos, drop a video to see it move beside its reconstruction, or to let the prior go on from its beginning.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from launch.command.cli import UserError, parse, run


@dataclass(frozen=True)
class DemoConfig:
    """Show a tokenizer, and a prior over its codes, on a local web page."""

    tokenizer: str
    """A released tokenizer's folder, its name on the Hub, or a run's folder."""
    prior: str | None = None
    """A released prior's folder, its name on the Hub, or a run's folder; null: no tab for sampling."""
    picture: str | None = None
    """The picture, sound or video the page opens with."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 accepts other machines."""
    port: int = 7860
    """Port to listen on."""

    def __post_init__(self) -> None:
        if not 0 < self.port < 65536:
            raise ValueError(f"port={self.port} must be between 1 and 65535: set it to 7860, for example")
        if self.picture is not None and not Path(self.picture).is_file():
            raise ValueError(f"picture={self.picture} must be a file: name one, or leave it out")


def main() -> None:
    """The command."""
    config = parse(DemoConfig, prog="python -m stage2_prior.demo")
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise UserError("the demo needs gradio: pip install 'vqloom[demo]', or pip install gradio") from error
    from stage1_tokenizer.tokenizer.opening import open_tokenizer
    from stage2_prior.priors.build import load_prior
    from stage2_prior.web.page import Demo, page

    tokenizer, loaded = open_tokenizer(config.tokenizer), load_prior(config.prior) if config.prior else None
    unified = loaded is not None and loaded.kind == "unified"
    prior = None if unified else loaded
    name = Path(config.tokenizer).resolve().name
    kind = tokenizer.transform.kind if tokenizer.transform is not None else "pictures"
    if kind == "videos":
        from stage2_prior.web import videos

        blocks = videos.page(videos.VideoDemo(tokenizer, prior), name, config.picture)
    elif kind == "sounds":
        from stage2_prior.web import sounds

        blocks = sounds.page(sounds.SoundDemo(tokenizer, prior), name, config.picture)
    else:
        blocks = page(Demo(tokenizer, prior), name, config.picture)
    if unified:
        from stage2_prior.web import conversation

        talk = conversation.Conversation(cast(Any, loaded), tokenizer)
        blocks = conversation.beside(blocks, talk, name)
    blocks.launch(server_name=config.host, server_port=config.port, quiet=False)


if __name__ == "__main__":
    run(main)
