"""The training loop of a tokenizer: steps, evaluations and checkpoints.

Legend: B batch (this rank's part), C channels, H W pixels, h w latent grid, K codes.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from torch import Tensor

from data.reading.stream import Stream, every_sample
from launch.checkpoints import store as checkpoint
from launch.checkpoints.ending import ending
from launch.command.file_errors import OutputError, told
from launch.ranks.reduce import all_finite
from launch.run.runtime import Run
from launch.run.schedule import due, learning_rate
from launch.run.seeding import seed_step
from stage1_tokenizer.config.training import TokenizerTrainConfig
from stage1_tokenizer.layers.precision import IN_TRAINING, float32_as
from stage1_tokenizer.measuring.scores import batch_use
from stage1_tokenizer.media import MEDIA
from stage1_tokenizer.quantizers.base import Perturbed
from stage1_tokenizer.training.cuda_graph import CapturedStep, CudaGraphs, check_cuda_graph
from stage1_tokenizer.training.inputs import Inputs
from stage1_tokenizer.training.monitor import Monitor
from stage1_tokenizer.training.trained import Trained


def fit(config: TokenizerTrainConfig, trained: Trained, run: Run, step: int) -> int:
    """Train from `step` to the end or to a signal; the exit code. Raises NotFiniteError after too many bad updates."""
    if step >= config.steps:
        run.say(f"{run.folder} is finished: it holds step {step}, nothing is left to do")
        return 0
    began, held_out, medium = step, config.data.held_out, MEDIA[config.data.kind]
    monitor, step_on = Monitor.of(config, trained.tokenizer), _step(config, trained, run)
    inputs = Inputs(config, trained.tokenizer, medium, run)
    with (
        Stream(config.data, seed=run.data_seed, rank=run.rank, world_size=run.world_size) as samples,
        run.progress("train tokenizer", config.steps, unit="steps", start=step) as bar,
    ):
        for batch in samples.batches(step):
            stop, last = run.stopping(), step == config.steps
            if held_out and (last or (not stop and due(step, config.evaluate_every, began))):
                run.log(step, evaluate(config, trained, run, step))
            if step > began and (last or stop or due(step, config.run.save_every, began)):
                checkpoint.save(run.folder, step, trained.state, run, keep=config.run.keep)
            if last or stop:
                break
            seed_step(config.run.seed, run.rank, step)
            x_BCHW, beside = inputs.of(batch, step)
            scalars, good = step_on(x_BCHW, step, **beside)
            logged = run.record(scalars, step=step, samples=config.data.batch_size, good=good)
            run.note(step, monitor.look(logged or {}))
            step += 1
            bar.advance()
    return ending(run, step, began, config.steps)


def _step(
    config: TokenizerTrainConfig, trained: Trained, run: Run
) -> Callable[..., tuple[dict[str, Tensor | float], Tensor]]:
    """train_step of a batch, a step and what is beside, from CUDA graphs where config.cuda_graph asks for them."""
    if not config.cuda_graph:
        return partial(train_step, config, trained)
    check_cuda_graph(run.device.type == "cuda", run.world_size, run.strategy)
    return CapturedStep(config, trained, train_step, CudaGraphs(run.device))


def train_step(
    config: TokenizerTrainConfig,
    trained: Trained,
    x_BCHW: Tensor,
    step: int,
    share: float | Tensor | None = None,
    valid: Tensor | None = None,
    codes_Bhw: Tensor | None = None,
    perturbed: Perturbed | None = None,
) -> tuple[dict[str, Tensor | float], Tensor]:
    """One step of all optimizers on this rank's part of a batch; its scalars, and whether it was done.

    `share` of the peak learning rates: by default the step's. `valid`, `codes_Bhw` and `perturbed` as OneForwardStep
    takes them. What is returned is still on the device. If a loss or a gradient of any network isn't finite on any
    rank, none is updated.
    """
    gradients, generator = trained.gradients, trained.generator
    with float32_as(IN_TRAINING[config.run.tf32]):
        networks = [learner.module for learner in trained.discriminators]
        result = gradients(generator.module, networks, x_BCHW, step, valid, codes_Bhw, perturbed)
    share = learning_rate(config.optimizer, step, config.steps, peak=1.0) if share is None else share
    scale = gradients.scale.value if gradients.scale else None
    clipped = {"optimizer/gradient_norm": generator.clip(scale)}
    learners = [generator]
    for adversary, learner, learns in zip(gradients.adversaries, trained.discriminators, result.trained, strict=True):
        if learns:
            clipped[f"optimizer/discriminator_gradient_norm{adversary.suffix}"] = learner.clip(scale)
            learners.append(learner)
    norms = {name: norm for name, norm in clipped.items() if norm is not None}
    losses = [value for name, value in result.metrics.items() if name.startswith("loss/")]
    good = all_finite([*norms.values(), *losses])
    if gradients.scale:
        gradients.scale.update(good)
    later = {name: learner.descend(share, good) for name, learner in zip(clipped, learners, strict=True)}
    if found := {name: norm for name, norm in later.items() if norm is not None}:  # by DeepSpeed, which skips by itself
        norms |= found
        good = good & all_finite(norms.values())
    trained.ema.update(step)
    scalars: dict[str, Tensor | float] = {**result.metrics, "optimizer/rate_share": share, **norms}
    if result.codes_Bhw is not None:
        scalars |= batch_use(result.codes_Bhw, trained.tokenizer.codebook_size, trained.tokenizer.codebooks)
    return scalars, good


def evaluate(config: TokenizerTrainConfig, trained: Trained, run: Run, step: int) -> dict[str, float]:
    """Measure the averaged weights on held-out samples, each once over all ranks, and show some of them."""
    held_out, medium = config.data.held_out, MEDIA[config.data.kind]
    assert held_out is not None
    batches = every_sample(
        held_out,
        config.data.transform,
        batch_size=max(1, config.data.batch_size // run.world_size),
        threads=config.data.threads,
        rank=run.rank,
        world_size=run.world_size,
        limit=config.evaluate_samples,
    )
    terms, features = trained.gradients.every_term, config.evaluate_features
    with trained.ema.whole() as tokenizer:
        figures = medium.measure(tokenizer, heartbeat(batches, run), terms, features, run)
        if run.is_main:
            try:
                medium.show(run.folder / medium.shown / f"step-{step:09d}", tokenizer, held_out)
            except OutputError as error:  # a full disk is the checkpoints' to judge (run.on_save_error)
                run.say(f"warning: {told(error)}; the run goes on without these {medium.shown}")
    return {f"eval/{name}": value for name, value in figures.items()}


def heartbeat(batches: Iterable[Any], run: Run) -> Iterator[Any]:
    """The batches; each tells the watchdog that the rank isn't hung."""
    for batch in batches:
        run.heartbeat()
        yield batch
