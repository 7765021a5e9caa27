"""A kind of prior added from outside the package: one class and its entry in the table serve every command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from stage1_tokenizer.quantizers import Quantizer
from stage2_prior.codes.source import CodeSource
from stage2_prior.codes.vocabulary import Vocabulary
from stage2_prior.config.drawing import Drawing
from stage2_prior.config.evaluation import EvaluateConfig
from stage2_prior.config.model import PriorModelConfig
from stage2_prior.config.sampling import InpaintConfig, SampleConfig
from stage2_prior.generation.logits import draw_codes
from stage2_prior.inpaint import inpaint
from stage2_prior.measuring.evaluation import evaluate
from stage2_prior.priors.base import Prior
from stage2_prior.priors.build import KINDS, load_prior
from stage2_prior.priors.losses import code_losses
from stage2_prior.priors.stock import llama_settings
from stage2_prior.release import ReleaseConfig, release
from stage2_prior.sample import sample
from stage2_prior.train import print_cost, train
from tests.stage2_prior.commands.test_train import settings
from tests.stage2_prior.conftest import Coded


class IndependentPrior(Prior):
    """All codes at once, independent of each other given the class: a Llama over positions without any code."""

    kind = "independent"
    stock = "AutoModelForCausalLM"

    @classmethod
    def build(
        cls, config: PriorModelConfig, vocabulary: Vocabulary, source: CodeSource, quantizer: Quantizer | None = None
    ) -> IndependentPrior:
        lm = LlamaForCausalLM(llama_settings(config, vocabulary.size, source.positions))
        return cls(lm, vocabulary, source)

    def logits(self, code_BN: Tensor, token_B: Tensor) -> Tensor:
        x_BND = self.embedded(token_B).repeat(1, self.source.positions, 1)
        return self.lm(inputs_embeds=x_BND, use_cache=False).logits[..., : self.vocabulary.codebook_size].float()

    def forward(self, code_BN: Tensor, token_B: Tensor) -> tuple[Tensor, Tensor]:
        logits_BNK = self.logits(code_BN, self.dropped(token_B))
        loss_BN, nats_BN = code_losses(logits_BNK, code_BN, self.label_smoothing, self.z_loss)
        return loss_BN.mean(), nats_BN.mean()

    @torch.inference_mode()
    def sample(self, token_B: Tensor, uniform_BU: Tensor, drawing: Drawing, given_BN: Tensor | None = None) -> Tensor:
        logits_BNK = self.logits(torch.zeros_like(uniform_BU, dtype=torch.int64), token_B)
        code_BN = draw_codes(logits_BNK.flatten(0, 1), uniform_BU.flatten(), drawing).view_as(uniform_BU)
        return code_BN if given_BN is None else torch.where(given_BN >= 0, given_BN, code_BN)

    def usage(self, name: str) -> str:
        return f"{name} repeats its class at every position."


def test_it_goes_through_every_command(
    coded: Coded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(KINDS, "independent", IndependentPrior)
    model: Any = PriorModelConfig(kind="independent", layers=1, width=16, heads=2)  # type: ignore[arg-type]
    config = settings(coded, tmp_path / "run", model=model, steps=4)
    assert print_cost(config) == 0 and "prior: independent" in capsys.readouterr().out
    assert train(config) == 0
    assert isinstance(load_prior(tmp_path / "run"), IndependentPrior)
    run, tokenizer, out = str(tmp_path / "run"), coded.tokenizer, str(tmp_path / "out")
    results = evaluate(EvaluateConfig(prior=run, codes=coded.held_out_codes, out=str(tmp_path / "results.json")))
    assert 0 < results["bits_per_code"] < 10
    assert sample(SampleConfig(prior=run, tokenizer=tokenizer, out=out, count=1)) == 0
    released = release(ReleaseConfig(prior=run, out=str(tmp_path / "released"), licence="mit"))
    assert "repeats its class at every position" in (released / "README.md").read_text()
    holes = InpaintConfig(
        prior=run, tokenizer=tokenizer, out=out + "-holes", given=coded.held_out, limit=2, keep="left"
    )
    assert inpaint(holes) == 0
