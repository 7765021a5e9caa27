"""How ranks share a model: DDP, FSDP2, DeepSpeed's ZeRO. Rests on `run` and `checkpoints`."""
