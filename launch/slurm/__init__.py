"""What a SLURM job runs: the batch scripts, the check of its nodes, the start of its ranks.

Rests on `launch.stages`.
"""
