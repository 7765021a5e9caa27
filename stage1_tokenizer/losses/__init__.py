"""Pixel losses, LPIPS and the adversarial losses. Rests on `config` and `layers`."""
