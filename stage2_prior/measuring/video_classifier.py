"""Classifiers of videos: what is seen in every frame, and how it moves.

Frames are looked at where their brightness differs from that of their border, which suits a thing in front of an even
background. Shapes: B clips, C channels, T frames, H W pixels, S = SIDE, F frames of all clips; features are
(F, X) or (B, X).
"""

from pathlib import Path
from typing import Any

import numpy as np

from stage2_prior.codes.videos import load
from stage2_prior.measuring.classifier import Classified, Classifier

CELLS, BINS, SIDE = 5, 8, 20
"""Cells on each side of a frame's window, directions of gradients in each, and numbers on a side."""
WIDTH = 4.2
"""A window's side, in standard deviations of the mass that it shows."""
PATHS = 1000
"""Clips whose motion is learned, at most."""
NOISE = 0.15
"""Of full scale: what differs less from its frame's border is no thing, as reconstructions of an even background do."""
NONE = -1
"""The label of a clip in whose frames different things are seen."""


def foreground(pixels_BCTHW: np.ndarray) -> np.ndarray:
    """How far each pixel is from its frame's border, in [0, 1], 0 below NOISE, float32 (B, T, H, W)."""
    x_BTHW = pixels_BCTHW.mean(axis=1, dtype=np.float32) / 255
    edges = (x_BTHW[..., 0, :], x_BTHW[..., -1, :], x_BTHW[..., 0], x_BTHW[..., -1])
    far_BTHW = np.abs(x_BTHW - np.median(np.concatenate(edges, axis=-1), axis=-1)[..., None, None])
    return np.where(far_BTHW < NOISE, np.float32(0), far_BTHW)


def centres(x_FHW: np.ndarray) -> np.ndarray:
    """Centre of mass of each picture, row and column, (F, 2); the middle of one without mass."""
    height, width = x_FHW.shape[1:]
    x_FHW = x_FHW + 1e-9
    mass_F = x_FHW.sum(axis=(1, 2))
    rows_F = (x_FHW.sum(axis=2) * np.arange(height)).sum(axis=1) / mass_F
    columns_F = (x_FHW.sum(axis=1) * np.arange(width)).sum(axis=1) / mass_F
    return np.stack([rows_F, columns_F], axis=1)


def centred(x_FHW: np.ndarray) -> np.ndarray:
    """Windows around the centres of mass, x_FSS, whose sides are WIDTH deviations of the mass; by bilinear weights."""
    centre_F2, (height, width) = centres(x_FHW), x_FHW.shape[1:]
    mass_F = (x_FHW + 1e-9).sum(axis=(1, 2))
    rows_F = (x_FHW.sum(axis=2) * (np.arange(height) - centre_F2[:, :1]) ** 2).sum(axis=1)
    columns_F = (x_FHW.sum(axis=1) * (np.arange(width) - centre_F2[:, 1:]) ** 2).sum(axis=1)
    deviation_F = np.sqrt((rows_F + columns_F) / mass_F / 2).clip(1, max(height, width) / WIDTH)
    step_F = WIDTH * deviation_F / SIDE
    margin = max(height, width)
    padded_FHW = np.pad(x_FHW, ((0, 0), (margin, margin), (margin, margin)))
    at_F2S = centre_F2[..., None] + margin + step_F[:, None, None] * (np.arange(SIDE) - (SIDE - 1) / 2)
    first_F2S = np.floor(at_F2S).astype(int)
    share_F2S = (at_F2S - first_F2S).astype(np.float32)
    frames = np.arange(len(x_FHW))[:, None, None]
    rows, columns = first_F2S[:, 0, :, None], first_F2S[:, 1, None, :]
    down, across = share_F2S[:, 0, :, None], share_F2S[:, 1, None, :]
    upper = padded_FHW[frames, rows, columns] * (1 - across) + padded_FHW[frames, rows, columns + 1] * across
    lower = padded_FHW[frames, rows + 1, columns] * (1 - across) + padded_FHW[frames, rows + 1, columns + 1] * across
    window_FSS: np.ndarray = upper * (1 - down) + lower * down
    return window_FSS


def shapes(x_FHW: np.ndarray) -> np.ndarray:
    """Histograms of the gradients' directions in cells of the centred windows, (F, X). (Dalal and Triggs 2005)"""
    x_FSS = centred(x_FHW)
    down_FSS, across_FSS = np.gradient(x_FSS, axis=(1, 2))
    length_FSS = np.hypot(down_FSS, across_FSS)
    bin_FSS = np.arctan2(down_FSS, across_FSS) / (2 * np.pi) * BINS % BINS
    first_FSS = np.floor(bin_FSS)
    share_FSS = bin_FSS - first_FSS
    step = SIDE // CELLS
    found = []
    for number in range(BINS):
        weight_FSS = length_FSS * np.where(first_FSS == number, 1 - share_FSS, 0)
        weight_FSS += length_FSS * np.where(first_FSS == (number - 1) % BINS, share_FSS, 0)
        found.append(weight_FSS.reshape(len(x_FSS), CELLS, step, CELLS, step).sum(axis=(2, 4)))
    histogram_FX = np.stack(found, axis=-1).reshape(len(x_FSS), -1)
    total_F1 = np.linalg.norm(histogram_FX, axis=1, keepdims=True) + 1e-6
    return np.asarray(np.sqrt(histogram_FX / total_F1), dtype=np.float32)


def motion(pixels_BCTHW: np.ndarray) -> np.ndarray:
    """The path of the frames' centres of mass from the first one on, in sides of the frame, (B, X)."""
    x_BTHW = foreground(pixels_BCTHW)
    path_BT2 = centres(x_BTHW.reshape(-1, *x_BTHW.shape[2:])).reshape(*x_BTHW.shape[:2], 2)
    path_BT2 = (path_BT2 - path_BT2[:, :1]) / np.array(x_BTHW.shape[2:])
    return np.asarray(path_BT2[:, 1:].reshape(len(path_BT2), -1), dtype=np.float32)


def by_frames(label_B: np.ndarray, pixels_BCTHW: np.ndarray, _: Any = None) -> Classifier:
    """A support-vector machine on the shapes in frames; a clip is of the class that all of its frames show, else NONE.

    It is fitted to one frame of each clip, from all times.
    """
    from sklearn.svm import SVC

    frames = pixels_BCTHW.shape[2]
    clips = np.arange(len(pixels_BCTHW))
    one_BHW = foreground(pixels_BCTHW[clips, :, clips % frames][:, :, None])[:, 0]
    machine = SVC(C=10.0, gamma="scale", cache_size=500).fit(shapes(one_BHW), label_B)

    def classify(pixels_BCTHW: np.ndarray) -> np.ndarray:
        x_BTHW = foreground(pixels_BCTHW)
        found_BT = machine.predict(shapes(x_BTHW.reshape(-1, *x_BTHW.shape[2:]))).reshape(x_BTHW.shape[:2])
        return np.where((found_BT == found_BT[:, :1]).all(axis=1), found_BT[:, 0], NONE)

    return classify


def by_motion(label_B: np.ndarray, pixels_BCTHW: np.ndarray, _: Any = None) -> Classifier:
    """A support-vector machine with a Gaussian kernel on the paths of the centres of mass."""
    from sklearn.svm import SVC

    chosen = np.unique(np.linspace(0, len(label_B) - 1, min(PATHS, len(label_B))).astype(int))
    machine = SVC(C=10.0, gamma="scale", cache_size=500).fit(motion(pixels_BCTHW[chosen]), label_B[chosen])
    return lambda pixels_BCTHW: np.asarray(machine.predict(motion(pixels_BCTHW)))


def _read(file: Path, transform: Any) -> np.ndarray:
    return load(file, transform).x_CTHW[:, : transform.frames]


SEEN = {"frames": by_frames, "motion": by_motion}
"""Where what a caption says can be seen, and what classifies it there."""

VIDEOS = Classified(
    what=f"scikit-learn SVC, Gaussian kernel: of frames, all of which must agree, on gradients' directions in "
    f"{CELLS}×{CELLS} cells around the centre of mass; of motion, on the centres' path; less than {NOISE} is no mass",
    values=lambda batch: batch.pixels_BCTHW.numpy(),
    read=_read,
    fitted=by_frames,
)
