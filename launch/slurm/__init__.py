"""What a SLURM job runs on its nodes: the check of each node, its ranks, the verdict. Rests on `stages`."""
