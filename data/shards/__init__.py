"""The format on disk: tars, their index, byte offsets."""
