"""HDR video on screens without it. Shapes: H W pixels, C channels."""

from functools import lru_cache

import numpy as np

_WHITE = 203.0
"""Candelas per square metre of the white of an ordinary picture in HDR (ITU-R BT.2408)."""
_KNEE, _PEAK = 0.8, 1000.0 / _WHITE
"""Above this share of white, highlights are compressed; the brightness of the source's that becomes white."""
_TO_709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], dtype=np.float32
)
"""Linear BT.2020 to BT.709 (ITU-R BT.2087)."""


def to_sdr(pixels_HWC: np.ndarray, transfer: str) -> None:
    """Map pixels of HDR, `pq` (SMPTE ST 2084) or `hlg` (ITU-R BT.2100), uint8 as decoded, to sRGB's range, in place.

    White of ordinary pictures stays white, highlights up to 1000 cd/m² are compressed, brighter ones cut off; colours
    outside BT.709 are cut off.
    """
    light_HWC = _light(transfer)[pixels_HWC]
    if pixels_HWC.shape[2] == 3:
        light_HWC = np.maximum(light_HWC @ _TO_709.T, 0)
    over = np.minimum((light_HWC - _KNEE) / (_PEAK - _KNEE), 1)
    # leaves the knee with slope 1 and reaches white, flat, at the peak
    bent_HWC = _KNEE + (1 - _KNEE) * (1 - (1 - np.maximum(over, 0)) ** ((_PEAK - _KNEE) / (1 - _KNEE)))
    light_HWC = np.where(over > 0, bent_HWC, light_HWC)
    coded_HWC = np.where(light_HWC <= 0.0031308, 12.92 * light_HWC, 1.055 * light_HWC ** (1 / 2.4) - 0.055)
    pixels_HWC[...] = np.rint(np.clip(coded_HWC, 0, 1) * 255)


@lru_cache(2)
def _light(transfer: str) -> np.ndarray:
    """Linear light of each coded value, as a share of white, float32 (256,)."""
    coded = np.arange(256) / 255
    if transfer == "hlg":
        scene = np.where(coded <= 0.5, coded**2 / 3, (np.exp((coded - 0.55991073) / 0.17883277) + 0.28466892) / 12)
        light = 1000.0 * scene**1.2
    else:
        power = coded ** (1 / 78.84375)
        light = 10000.0 * (np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)) ** (1 / 0.1593017578125)
    return (light / _WHITE).astype(np.float32)
