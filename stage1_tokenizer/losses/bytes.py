"""The term of texts at the reconstruction: cross-entropy of bytes. Legend: B batch, C = 256 channels, T bytes."""

from torch import Tensor

from stage1_tokenizer.losses.term import Term


class CrossEntropyTerm(Term):
    """Mean nats of a byte, with the reconstruction's channels as logits; what is behind a text's end doesn't count."""

    name = "cross_entropy"

    def forward(self, x_hat_BCT: Tensor, x_BCT: Tensor) -> Tensor:
        """The mean over the bytes of the batch; x_BCT is one-hot."""
        return nats(x_hat_BCT, x_BCT) / x_BCT.sum().clamp(min=1)


def nats(x_hat_BCT: Tensor, x_BCT: Tensor) -> Tensor:
    """The sum over all bytes of -ln p."""
    return -(x_hat_BCT.float().log_softmax(1) * x_BCT).sum()
