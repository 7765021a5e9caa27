"""Quality of reconstructed texts, as sums that ranks can add up. Legend: B batch, C = 256 channels, T bytes."""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from data.texts.windows import ByteBatch, one_hot
from stage1_tokenizer.losses.bytes import nats
from stage1_tokenizer.measuring.scores import COUNTED, code_statistics
from stage1_tokenizer.quantizers.usage import count_codes
from stage1_tokenizer.tokenizer.model import Tokenizer


def measure_texts(
    tokenizer: Tokenizer, batches: Iterable[ByteBatch], *, device: torch.device, total: Callable[[Tensor], Tensor]
) -> dict[str, float]:
    """Figures over this rank's batches and, through `total`, the other ranks'; every rank calls it.

    rate_bits: bits of codes for each byte, whatever the codes' distribution; bits_per_byte: -log2 p of a byte given its
    codes, so that the sum of both codes a text without loss; exact_bytes: the share of bytes whose likeliest value is
    right; exact_windows: that of windows without an error. With them the use of the codes.
    """
    sums = torch.zeros(5, dtype=torch.float64, device=device)
    counted = tokenizer.codebook_size if tokenizer.codebook_size <= COUNTED else 0
    count_GK = torch.zeros(tokenizer.codebooks, counted, dtype=torch.int64, device=device)
    for batch in batches:
        x_BCT = one_hot(batch.byte_BT.to(device), batch.lengths_B.to(device))
        y_BCT, codes_BN = read_back(tokenizer, x_BCT)
        inside_BT = x_BCT.sum(1).bool()
        wrong_BT = (y_BCT.argmax(1) != x_BCT.argmax(1)) & inside_BT
        right = inside_BT.sum() - wrong_BT.sum()
        codes = 0 if codes_BN is None else codes_BN.numel() * math.log2(tokenizer.codebook_size)
        counts = [nats(y_BCT, x_BCT), right, inside_BT.sum(), (~wrong_BT.any(1)).sum(), len(x_BCT)]
        sums += torch.stack([torch.as_tensor(count, device=device).double() for count in counts])
        if counted and codes_BN is not None:
            count_GK += count_codes(codes_BN, counted, tokenizer.codebooks)
        per_window = codes / len(x_BCT)
    summed, exact, size, whole, windows = total(sums).tolist()
    figures = {
        "bits_per_byte": summed / math.log(2) / max(1, size),
        "exact_bytes": exact / max(1, size),
        "exact_windows": whole / max(1, windows),
        "rate_bits": per_window * windows / max(1, size),
        "samples": int(windows),
    }
    return figures | (code_statistics(total(count_GK).cpu()) if counted else {})


@torch.no_grad()
def read_back(tokenizer: Tokenizer, x_BCT: Tensor) -> tuple[Tensor, Tensor | None]:
    """The logits of each byte, y_BCT, and the codes. (`reconstruct` clamps to [-1, 1], as pictures need.)"""
    made = tokenizer(x_BCT)
    return made.x_BCHW, made.codes_Bhw
