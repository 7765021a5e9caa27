"""How a run starts, stops, resumes and is seen. Knows the stages by module name only.

`docs/training.md` describes runs, `docs/cluster.md` SLURM, `docs/architecture.md` the rooms.
"""
