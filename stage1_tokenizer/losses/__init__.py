"""Loss terms at the reconstruction: pixels, LPIPS, adversarial. Rests on `layers`."""
