"""Encoders and decoders. Rests on `layers`."""
