"""What a job on a cluster runs on its nodes."""
