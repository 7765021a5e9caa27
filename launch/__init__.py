"""How a run starts, stops, resumes and is seen. Knows the stages by module name only.

Commands:

    python -m launch.local --processes 8 MODULE OPTIONS…       a command on several ranks of this machine
    python -m launch.submit launch/recipes/NAME --nodes 4      the whole chain on SLURM (--dry-run, --local)
    python -m launch.status RUN                                each stage's step, rate, remaining time, last loss
    python -m launch.report --folder FOLDER                    one HTML page for a run or a whole pipeline
    python -m launch.checkpoint RUN --list                     a run's checkpoints; --verify, --export
    python -m launch.pipeline --data mnist                     the quickstart's stages, one after the other

Rooms, each resting on those before it:

    command       options, checks, progress, errors, exit codes
    files         atomic writes, downloads
    ranks         starting processes that belong together; votes and reductions
    run           a run's folder, seeds, signals, metrics, watchdog
    checkpoints   atomic checkpoints, found, checked and deleted
    strategies    DDP, FSDP2, ZeRO
    stages        the pipeline's stages, their jobs and records
    slurm         batch scripts and what runs on the nodes
    reporting     the report's charts

A training of your own:

    with start_run(config, config.run) as run:                         # ranks, seeds, folder, signals, trackers
        step = load_latest(run.folder, state, run) or 0
        for batch in batches(step):
            stop, last = run.stopping(), step == steps                 # SIGTERM and SIGUSR1, agreed by all ranks
            if last or stop or step % save_every == 0: save(run.folder, step, state, run)
            if last or stop: break
            seed_step(seed, run.rank, step)                            # the step's noise: no generator state is saved
            run.record(scalars, step=step, samples=B)                  # stays on the device until a line is due
            step += 1
    return run.exit_code                                               # 0, or 85 after a signal: rerun to resume

`docs/training.md` describes runs, `docs/cluster.md` SLURM.
"""
