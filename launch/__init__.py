"""How a run starts, stops, resumes and is seen.

Commands, all of them reading files or starting other commands:

    python -m launch.local --processes 8 MODULE OPTIONS…       a module on several ranks of this machine
    python -m launch.submit launch/recipes/NAME --nodes 4      the whole chain on SLURM (--dry-run, --local)
    python -m launch.status RUN                                each stage's step, rate, remaining time, last loss
    python -m launch.report RUN…                               one HTML page for a run, or comparing several
    python -m launch.checkpoint RUN --list                     its checkpoints; --verify, --export

A run's folder has config.yaml, run.json (commit, versions, hardware of each start), metrics.jsonl, log.txt and
checkpoints/. Starting the same command again goes on from the newest checkpoint that is whole. A training of one's own:

    with start_run(config, config.run) as run:                         # ranks, seeds, folder, signals, trackers
        step = checkpoint.load_latest(run.folder, state, run) or 0
        for batch in batches(step):
            stop, last = run.stopping(), step == steps                 # SIGTERM and SIGUSR1, agreed by all ranks
            if last or stop or step % save_every == 0: checkpoint.save(run.folder, step, state, run)
            if last or stop: break
            seed_step(seed, run.rank, step)                            # noise of the step, so none is saved
            run.record(scalars, step=step, samples=B)                  # stays on the device until a line is due
            step += 1
    return run.exit_code                                               # 0, or 85 after a signal: start it again

Checkpoints are written aside, synced, hashed and renamed; a damaged one is passed over. An exception on one rank ends
all of them with its reason, a rank that stands still is ended by the watchdog (`run.watchdog`), and updates whose
gradients aren't finite are skipped, then the run turns back (`run.skip_limit`, `run.rollbacks`).
`launch/slurm/README.md` tells of clusters, `launch.strategies.choose` of FSDP2 and DeepSpeed.
"""
