"""Processes that compute together: starting them, agreeing, reducing tensors. Rests on `launch.config`."""
