"""The format on disk: tars, their index, byte offsets; reading and writing both. Rests on `data.remote`."""
