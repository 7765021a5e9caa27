"""Encoders and decoders. Rests on `config` and `layers`."""
