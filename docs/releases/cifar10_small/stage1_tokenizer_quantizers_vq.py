# Made from stage1_tokenizer.quantizers.vq of vqloom 0.1.0, Apache-2.0: change that, not this.

from __future__ import annotations

from .stage1_tokenizer_quantizers_base import RowQuantizer
from torch import nn
from .stage1_tokenizer_quantizers_base import Counter
import torch
from torch import Tensor
from typing import Any
from .stage1_tokenizer_quantizers_nearest import order_of_rows
from .launch_ranks_transfer import to_device
from .stage1_tokenizer_quantizers_gradients import GRADIENTS
from .stage1_tokenizer_quantizers_nearest import nearest_code
from .stage1_tokenizer_layers_precision import widened
from .stage1_tokenizer_layers_precision import at_least_float32
import torch.nn.functional as F
from .launch_ranks_reduce import all_sum
from .stage1_tokenizer_quantizers_usage import count_codes
from .stage1_tokenizer_quantizers_nearest import sums_by_code
from .stage1_tokenizer_quantizers_nearest import kmeans
from .stage1_tokenizer_quantizers_nearest import rows_in_order


class Statistics(Counter):
    """Training statistics of a codebook: use counts and moving averages. Not needed to encode or decode.

    A state_dict without them can be loaded (a released or foreign codebook): its codes are not initialised again.
    `first`, `drawing`, `reviving` and `order_K` describe the step that has begun: whether it is the first one, draws
    the first codes, replaces codes, and by which rows of the global batch.
    """

    def __init__(self, codebook_size: int, code_dim: int, *, averages: bool):
        super().__init__()
        self.drawn = False
        self.first = self.drawing = self.reviving = False
        self.order_K: Tensor | None = None
        self.register_buffer("used_K", torch.zeros(codebook_size, dtype=torch.int64))
        self.register_buffer("share_K", torch.ones(codebook_size) if averages else None)
        self.register_buffer("sum_KD", torch.zeros(codebook_size, code_dim) if averages else None)
        self.used_K: Tensor
        self.share_K: Tensor | None
        self.sum_KD: Tensor | None

    def set_extra_state(self, state: Tensor) -> None:
        """Restore the number of steps."""
        super().set_extra_state(state)
        self.drawn = self.steps > 0

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *others)
        if not any(key.startswith(prefix) for key in state_dict):
            self.drawn = True


class VectorQuantizer(RowQuantizer):
    """The nearest entry of a learned codebook (van den Oord et al. 2017), with a straight-through gradient.

    With reparametrise=linear, the entries are frozen normal vectors times one learned matrix, so that every step moves
    all of them (SimVQ, Zhu et al. 2024). In training, all ranks must call forward together: use counts and the
    reinitialisation of unused codes come from the global batch.
    """

    def __init__(self, config: QuantizerConfig):
        super().__init__(config)
        self.embedding = nn.Embedding(config.codebook_size, config.code_dim)
        nn.init.uniform_(self.embedding.weight, -1 / config.codebook_size, 1 / config.codebook_size)
        self.linear: nn.Module = nn.Identity()
        if config.reparametrise != "none":
            nn.init.normal_(self.embedding.weight, std=config.code_dim**-0.5)
            self.linear = nn.Linear(config.code_dim, config.code_dim, bias=config.reparametrise == "affine")
        averages = config.learning == "moving_average"
        self.embedding.weight.requires_grad_(not averages and config.reparametrise == "none")
        self.statistics = Statistics(config.codebook_size, config.code_dim, averages=averages)

    def begin(self, positions: int) -> None:
        """Count the step, and decide whether and by which rows of the global batch it replaces unused codes."""
        state, every = self.statistics, self.config.revive_after
        state.first, state.drawing = state.steps == 0, self.config.start != "uniform" and not state.drawn
        state.reviving = state.drawing or bool(every and state.steps and state.steps % every == 0)
        state.drawn, self.starting, self.reviving = True, state.first or state.drawing, state.reviving
        if state.reviving:
            order_K = order_of_rows(positions, self.codebook_size, seed=state.steps)
            state.order_K = to_device(order_K, self.embedding.weight.device)
        state.steps += 1

    def quantize(self, z_ND: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Latents, codes, and the losses `commitment` and, with learning=gradient, `codebook`."""
        z_ND, e_ND, idx_N, losses = self.choose(z_ND)
        return GRADIENTS[self.config.gradient](z_ND, e_ND), idx_N, losses

    def choose(self, z_ND: Tensor) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        """Rows (normalised if configured), their code vectors, codes and losses; one training step."""
        z_ND = self._scaled(z_ND)
        if self.training:
            self.revive(z_ND.detach())
        idx_N = self._index(z_ND)
        e_ND = self.rows(idx_N)
        losses = self._losses(z_ND, e_ND)
        if self.training:
            self.count(z_ND.detach(), idx_N)
        return z_ND, e_ND, idx_N, losses

    def search(self, rows_ND: Tensor) -> Tensor:
        """Codes (N,) nearest to the rows."""
        return self._index(self._scaled(rows_ND))

    def _index(self, z_ND: Tensor) -> Tensor:
        with torch.no_grad():
            code_KD = self._vectors(self.embedding.weight).to(z_ND.dtype)
        return nearest_code(z_ND.detach(), code_KD)

    def rows(self, idx_N: Tensor) -> Tensor:
        """Code vectors (N, D)."""
        return self._vectors(self.embedding(idx_N))

    def _vectors(self, entries_ND: Tensor) -> Tensor:
        return self._scaled(widened(self.linear, at_least_float32(entries_ND)))

    def _losses(self, z_ND: Tensor, e_ND: Tensor) -> dict[str, Tensor]:
        """‖sg[z] − e‖² and β‖z − sg[e]‖² (eq. 3), each a mean over all elements; `legacy` puts β on the first."""
        beta = self.config.commitment
        paper = self.config.beta_placement == "paper"
        losses = {"commitment": (beta if paper else 1.0) * F.mse_loss(z_ND, e_ND.detach())}
        if self.config.learning == "gradient":
            losses["codebook"] = (1.0 if paper else beta) * F.mse_loss(e_ND, z_ND.detach())
        return losses

    @torch.no_grad()
    def count(self, z_ND: Tensor, idx_N: Tensor) -> None:
        """Count uses over all ranks; update moving-average codes (van den Oord et al. 2017, app. A.1)."""
        state, size = self.statistics, self.codebook_size
        if state.share_K is None or state.sum_KD is None:
            state.used_K += all_sum(count_codes(idx_N, size)[0])
            return
        count_K, sum_KD = sums_by_code(z_ND, idx_N, size)
        good = sum_KD.isfinite().all()  # NaN or Inf latents: the update of this step is skipped, and so are they
        count_K, sum_KD = torch.where(good, count_K, 0), torch.where(good, sum_KD, 0.0)
        state.used_K += count_K
        if state.first:
            state.sum_KD.copy_(self.embedding.weight)
        state.share_K.lerp_(count_K.to(state.share_K.dtype), 1 - self.config.decay)
        state.sum_KD.lerp_(sum_KD.to(state.sum_KD.dtype), 1 - self.config.decay)
        moved_KD = self._scaled(state.sum_KD / state.share_K[:, None])
        self.embedding.weight.copy_(torch.where((count_K > 0)[:, None], moved_KD, self.embedding.weight))

    @torch.no_grad()
    def revive(self, z_ND: Tensor) -> None:
        """In a step that does so, replace unused codes by vectors of the global batch, the same on every rank."""
        state = self.statistics
        if not state.reviving:
            return
        dead_K1 = (state.used_K == 0)[:, None]
        drawn_KD = self._drawn(z_ND).to(self.embedding.weight.dtype)
        dead_K1 &= drawn_KD.isfinite().all(1, keepdim=True)
        self.embedding.weight.copy_(torch.where(dead_K1, drawn_KD, self.embedding.weight))
        if state.share_K is not None and state.sum_KD is not None and not state.drawing:
            state.share_K.copy_(torch.where(dead_K1[:, 0], 1.0, state.share_K))
            state.sum_KD.copy_(torch.where(dead_K1, drawn_KD, state.sum_KD))
        state.used_K.zero_()

    def _drawn(self, z_ND: Tensor) -> Tensor:
        """New code vectors (K, D): rows of the global batch, or with start=kmeans its centres in the first step."""
        if self.statistics.drawing and self.config.start == "kmeans":
            return kmeans(z_ND, self.codebook_size, seed=0, sphere=self.config.l2_normalise)
        assert self.statistics.order_K is not None
        return rows_in_order(z_ND, self.statistics.order_K)
