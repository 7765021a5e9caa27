"""The format on disk: tars, their index, byte offsets, single samples. Rests on `remote`."""
