# shellcheck shell=bash
# Shared by all batch scripts; each sources it and calls `run_stage NAME "$@"`. Its settings are variables:
#
#   VQLOOM_RECIPE     the recipe, such as launch/recipes/mnist (required)
#   VQLOOM_OUT        the chain's folder, on a file system that all nodes see (default: runs/NAME)
#   VQLOOM_ROOT       the checkout (default: the folder that sbatch was called in)
#   VQLOOM_SETUP      a shell file to source first: `module load …`, `conda activate …` (default: activates .venv)
#   VQLOOM_SRUN       further options of srun, such as `--container-image=… --container-mounts=…`
#   VQLOOM_NCCL       file of NCCL settings to export (default: launch/slurm/nccl.env)
#   VQLOOM_PROCESSES  ranks on each node (default: one on each GPU of the node, else one)
#   VQLOOM_PREFLIGHT  0 skips the check of every node
#   VQLOOM_MOST_IDLE  attempts in a row without a newer checkpoint after which the job isn't requeued (default: 3)
#
# Nodes, GPUs, partition, account and time are sbatch's: `sbatch --nodes 4 --gpus-per-node 8 --partition P --account A
# --time 24:00:00 launch/slurm/tokenizer.sbatch [ARGUMENT…]`. Arguments go to the stage's command.
# Logs: the job's own (--output), and OUT/logs/STAGE-JOB-RESTART/nodeN/…/RANK/{stdout,stderr}.log of each rank.

signals=0
step=

say() { printf '%s %s: %s\n' "$(date '+%F %T')" "$stage" "$*" >&2; }

die() {
    say "error: $*"
    exit 2 # BAD_INPUT, perhaps before Python can be asked
}

settle() {
    [ -n "${VQLOOM_RECIPE:-}" ] || die "VQLOOM_RECIPE is not set: name a recipe, such as launch/recipes/mnist"
    export VQLOOM_OUT=${VQLOOM_OUT:-runs/$(basename "$VQLOOM_RECIPE")}
    if [ -n "${VQLOOM_SETUP:-}" ]; then
        # shellcheck disable=SC1090
        . "$VQLOOM_SETUP" || die "VQLOOM_SETUP=$VQLOOM_SETUP failed"
    elif [ -f .venv/bin/activate ]; then
        # shellcheck disable=SC1091
        . .venv/bin/activate
    fi
    # BAD_INPUT, STOPPED and the other exit codes of launch/command/exit_codes.py.
    eval "$(python -m launch.command.exit_codes)"
    [ -n "${STOPPED:-}" ] || die "python -m launch.command.exit_codes failed: set up .venv, or name a VQLOOM_SETUP"
    set -a
    # shellcheck disable=SC1090
    . "${VQLOOM_NCCL:-launch/slurm/nccl.env}" || die "VQLOOM_NCCL=${VQLOOM_NCCL:-launch/slurm/nccl.env} failed"
    set +a
    VQLOOM_PROCESSES=${VQLOOM_PROCESSES:-${SLURM_GPUS_ON_NODE:-1}}
    VQLOOM_NODES=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | paste -sd,)
    VQLOOM_ADDRESS=${VQLOOM_NODES%%,*}
    # Two jobs may share a node, and a requeued one may find its old port still closing.
    VQLOOM_PORT=$((20000 + (SLURM_JOB_ID * 7 + ${SLURM_RESTART_COUNT:-0}) % 20000))
    VQLOOM_LOGS=$VQLOOM_OUT/logs/$stage-$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}
    mkdir -p "$VQLOOM_LOGS" || die "can't write to $VQLOOM_OUT"
    # Ranks report one mistake once (launch.command.cli); srun takes no --cpus-per-task from sbatch.
    VQLOOM_ERRORS=$VQLOOM_LOGS
    export VQLOOM_PROCESSES VQLOOM_NODES VQLOOM_ADDRESS VQLOOM_PORT VQLOOM_LOGS VQLOOM_ERRORS
    export SRUN_CPUS_PER_TASK=${SLURM_CPUS_ON_NODE:-1} PYTHONUNBUFFERED=1
    part=()
    [ -z "${SLURM_ARRAY_TASK_ID:-}" ] || part=(--part "$SLURM_ARRAY_TASK_ID")
    read -r -a srun_more <<<"${VQLOOM_SRUN:-}"
}

# A signal to this script (--signal=B:USR1@…) goes to the step. srun passes USR1 on; SIGTERM would make it kill at once.
pass_on() {
    signals=$((signals + 1))
    say "asked to stop: the ranks save at the next step"
    [ -z "$step" ] || kill -USR1 "$step" 2>/dev/null || :
}

# In the background, so that the trap above runs at once. Sets `code`.
each_node() {
    local seen now
    srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --cpu-bind=none \
        --kill-on-bad-exit=1 "${srun_more[@]}" "$@" &
    step=$!
    while :; do
        seen=$signals
        wait "$step"
        now=$?
        [ "$now" -eq 127 ] || code=$now
        [ "$seen" -ne "$signals" ] || break # else it was the signal that ended the wait, not the step
    done
    step=
}

attempt() { python -m launch.stages.records "$@" --out "$VQLOOM_OUT" --stage "$stage" "${part[@]}"; }

# finish CODE WHY: note the end, requeue where another attempt makes sense, and leave.
finish() {
    local verdict
    verdict=$(attempt end --code "$1" --why "$2") || verdict=fail
    say "ended with exit code $1${2:+ ($2)}: $verdict"
    if [ "$verdict" = requeue ]; then
        scontrol requeue "$SLURM_JOB_ID" 2>/dev/null ||
            say "not requeued by this script: SLURM did it already (see squeue), or forbids it: submit it again to resume"
    fi
    exit "$1"
}

preflight() {
    [ "${VQLOOM_PREFLIGHT:-1}" != 0 ] || return 0
    local folder=$VQLOOM_LOGS/preflight
    python -m launch.slurm.preflight begin --folder "$folder" || finish "$BAD_INPUT" "preflight"
    code=0
    each_node python -m launch.slurm.preflight look --folder "$folder" --gpus "${SLURM_GPUS_ON_NODE:-0}" \
        --recipe "$VQLOOM_RECIPE" --out "$VQLOOM_OUT" --stage "$stage"
    python -m launch.slurm.preflight compare --folder "$folder" --nodes "$VQLOOM_NODES" ||
        finish "$BAD_INPUT" "preflight"
    [ "$code" -eq 0 ] || finish "$code" "preflight could not run on every node"
    [ "$SLURM_JOB_NUM_NODES" -gt 1 ] && [ "$signals" -eq 0 ] || return 0
    each_node python -m launch.slurm.speeds --nodes "$VQLOOM_NODES"
    [ "$code" -eq 0 ] || [ "$signals" -gt 0 ] || finish "$code" "the nodes do not reach each other"
    code=0
}

# What the nodes' launchers reported: a user's mistake, a stop by signal, or else srun's own code.
verdict_code() {
    local told
    told=$(cat "$VQLOOM_LOGS"/code.* 2>/dev/null | sort -u | tr '\n' ' ')
    case " $told" in
        *" $BAD_INPUT "*) code=$BAD_INPUT ;;
        " $STOPPED ") [ "$code" -ne 0 ] || code=$STOPPED ;;
    esac
}

run_stage() {
    stage=$1
    shift
    code=0
    settle
    trap pass_on USR1 TERM
    attempt begin || exit "$BAD_INPUT"
    say "attempt $((${SLURM_RESTART_COUNT:-0} + 1)) of job $SLURM_JOB_ID on $SLURM_JOB_NODELIST," \
        "$VQLOOM_PROCESSES ranks a node, meeting at $VQLOOM_ADDRESS:$VQLOOM_PORT"
    preflight
    [ "$signals" -eq 0 ] || finish "$STOPPED" "stopped before it began"
    each_node python -m launch.slurm.node --recipe "$VQLOOM_RECIPE" --out "$VQLOOM_OUT" "$stage" "$@"
    verdict_code
    if [ "$signals" -gt 0 ] && [ "$code" -gt "$SIGNALLED" ]; then
        finish "$code" "stopped by a signal, before the first step"
    fi
    finish "$code" ""
}
