"""Captions as a condition: from shards to samples with the encoder over bytes, and through frozen encoders."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from data.config import CodeDataConfig
from data.reading.stream import Stream, every_code
from data.shards.loading import load_index
from launch.command.cli import UserError
from stage2_prior.config.drawing import Drawing
from stage2_prior.config.encoding import EncodeConfig
from stage2_prior.config.model import PriorModelConfig, TextConfig
from stage2_prior.config.sampling import InpaintConfig, SampleConfig
from stage2_prior.encode import encode
from stage2_prior.generation.autoregressive import CachedLlama
from stage2_prior.inpaint import inpaint
from stage2_prior.priors.autoregressive import AutoregressivePrior
from stage2_prior.priors.build import build_prior, load_prior
from stage2_prior.priors.text_prefix import TextPrefix
from stage2_prior.release import ReleaseConfig, release
from stage2_prior.sample import sample
from stage2_prior.sampling.conditions import Prompts, prompts_of, requested
from stage2_prior.train import checked_codes, train
from stage2_prior.training.cost import cost
from stage2_prior.training.loop import say_cut
from tests.stage2_prior.commands.test_train import settings
from tests.stage2_prior.conftest import Coded
from tests.stage2_prior.tiny import CODES, SOURCE, TEXTS, random_codes, tiny_prior, write_pictures

KINDS = ["autoregressive", "masked"]
REQUESTED = ["bright above", "", "a much longer text than is kept"]


def text_prior(kind: str = "autoregressive", **changes: Any) -> Any:
    text = TextConfig(**{"tokens": 5, "layers": 1, **changes})
    return tiny_prior(kind=kind, condition="text", text=text, spread=4.0)


@pytest.mark.parametrize("kind", KINDS)
def test_every_code_attends_to_every_token_of_its_text_and_no_text_is_the_learned_prefix(kind: str):
    prior, code_BN = text_prior(kind), random_codes(3)
    token_BL = prior.condition.of_texts(REQUESTED)
    assert token_BL.tolist()[:2] == [list(b"brigh"), [-1] * 5] and token_BL.shape == (3, 5)
    inputs: list[torch.Tensor] = []

    def keep(module: torch.nn.Module, tokens: Any, embedded: torch.Tensor) -> torch.Tensor:
        inputs.append(embedded.detach().requires_grad_())
        return inputs[-1]

    hook = prior.text.bytes.get_input_embeddings().register_forward_hook(keep)
    logits_BNK = prior.logits(code_BN, token_BL)
    hook.remove()
    assert logits_BNK.shape == (3, SOURCE.positions, CODES)
    for position in (0, SOURCE.positions - 1):
        (gradient_BLD,) = torch.autograd.grad(logits_BNK[:, position].square().sum(), inputs, retain_graph=True)
        assert (gradient_BLD[0].abs().sum(-1) > 0).all()
        assert (gradient_BLD[1] == 0).all(), "an empty text has no influence"
    place_LD = prior.text.place.weight
    assert torch.equal(prior.embedded(token_BL)[1, :5], place_LD)
    assert torch.equal(prior.condition.of_labels(torch.tensor([0, -1])), torch.full((2, 5), -1)), (
        "labels tell it nothing"
    )


def test_a_short_texts_prefix_does_not_depend_on_longer_ones_beside_it():
    prior = text_prior(tokens=20)
    with torch.no_grad():
        together, alone = (
            prior.text(prior.condition.of_texts([*REQUESTED, "ab"])),
            prior.text(prior.condition.of_texts(["ab"])),
        )
    torch.testing.assert_close(together[3:], alone)
    assert torch.equal(alone[0, 2:], prior.text.place.weight[2:])


def test_cached_logits_equal_uncached_ones_at_every_step():
    prior, code_BN = text_prior(), random_codes(3)
    assert isinstance(prior, AutoregressivePrior)
    with torch.inference_mode():
        token_BL = prior.condition.of_texts(REQUESTED)  # type: ignore[union-attr]
        whole_BNK = prior.logits(code_BN, token_BL)
        llama = CachedLlama(prior.lm, CODES, 5 + SOURCE.positions)
        for _ in range(2):
            llama.start(3)
            first_BD = llama.extend(prior.embedded(token_BL), 0, causal=True)[:, -1]
            torch.testing.assert_close(llama.head_of_books[0](first_BD), whole_BNK[:, 0], atol=1e-4, rtol=1e-4)
            for position in range(1, SOURCE.positions):
                step_BK = llama.head_of_books[0](llama.output(code_BN[:, position - 1], 5 + position))
                torch.testing.assert_close(step_BK, whole_BNK[:, position], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_guidance_is_the_formula_and_one_is_none(kind: str):
    prior = text_prior(kind)
    if kind == "autoregressive":  # whose codes would repeat themselves
        prior.lm.model.embed_tokens.weight.data.mul_(10)
    token_BL, drawing = prior.condition.of_texts(REQUESTED), Drawing(guidance=20.0, temperature=0.0, steps=1)
    uniform_BU = torch.rand(3, prior.draws(drawing))
    plain, guided = (prior.sample(token_BL, uniform_BU, replace(drawing, guidance=scale)) for scale in (1.0, 20.0))
    almost_BN = prior.sample(token_BL, uniform_BU, replace(drawing, guidance=1 + 1e-6))
    assert torch.equal(almost_BN, plain) and not torch.equal(guided, plain)
    assert torch.equal(guided[1], plain[1]), "without a text there is nothing to guide to"
    with torch.inference_mode():
        read_BN = guided if kind == "autoregressive" else torch.full_like(guided, prior.vocabulary.mask)
        text_BNK, null_BNK = prior.logits(read_BN, token_BL), prior.logits(read_BN, torch.full_like(token_BL, -1))
    assert torch.equal((null_BNK + 20.0 * (text_BNK - null_BNK)).argmax(-1), guided)


def test_texts_are_dropped_in_training_and_everything_learns():
    prior, code_BN = text_prior(), random_codes(64)
    token_BL = prior.condition.of_texts(["bright"] * 64)
    prior.class_dropout = 0.5
    torch.manual_seed(0)
    kept_BL = prior.dropped(token_BL)
    dropped_B = (kept_BL == -1).all(1)
    assert 16 < int(dropped_B.sum()) < 48 and torch.equal(kept_BL[~dropped_B], token_BL[~dropped_B])
    prior(code_BN, token_BL)[0].backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in prior.parameters())
    assert cost(prior).parameters == sum(weight.numel() for weight in prior.parameters())


def test_random_orders_go_with_texts():
    text = TextConfig(tokens=5, layers=1)
    prior = tiny_prior(condition="text", text=text, order="random", class_dropout=0.0)
    assert isinstance(prior, AutoregressivePrior)
    code_BN, token_BL = random_codes(3), prior.condition.of_texts(REQUESTED)
    raster_BN = torch.arange(SOURCE.positions).expand(3, -1)
    rows_BNK = prior.predicted(code_BN, token_BL, raster_BN).logits()
    torch.testing.assert_close(rows_BNK, prior.logits(code_BN, token_BL), atol=1e-4, rtol=1e-4)


@dataclass(frozen=True)
class Captioned:
    """Codes of captioned pictures, and a prior of texts trained on them."""

    coded: Coded
    run: Path


@pytest.fixture(scope="module")
def captioned(coded: Coded, tmp_path_factory: pytest.TempPathFactory) -> Captioned:
    place = tmp_path_factory.mktemp("captioned")
    pictures = write_pictures(place / "pictures", shards=3, each=18, captions=True)
    assert encode(EncodeConfig(tokenizer=coded.tokenizer, data=pictures, out=str(place / "codes"), flip=True)) == 0
    own = replace(coded, pictures=pictures, codes=str(place / "codes" / "index.json"), held_out_codes="")
    model = PriorModelConfig(
        layers=1, width=32, heads=2, condition="text", text=TextConfig(tokens=12, layers=1), class_dropout=0.2
    )
    config = settings(own, place / "run", steps=150, model=model)
    assert train(replace(config, data=replace(config.data, held_out=None))) == 0
    return Captioned(own, place / "run")


def test_captions_come_along_with_the_codes(captioned: Captioned):
    index = load_index(captioned.coded.codes)
    assert index.meta["captions"] == 2 * 3 * 14
    told = {
        key: text
        for batch in every_code(captioned.coded.codes, batch_size=7)
        for key, text in zip(batch.keys, batch.captions, strict=True)
    }
    assert len(told) == 108 and told["00_000"] == "" and told["00_001"] == told["00_001-flip"] == TEXTS[1]
    with Stream(CodeDataConfig(index=captioned.coded.codes, batch_size=6), seed=0) as stream:
        batch = next(stream.batches())
    assert batch.captions == [told[key] for key in batch.keys]


def test_what_a_text_says_helps_to_foretell_the_codes(captioned: Captioned):
    prior = load_prior(captioned.run)
    assert prior.text is not None
    batch = next(every_code(captioned.coded.codes, batch_size=108))
    code_BN, own_BL = batch.idx_Bhw.flatten(1), prior.condition.of_texts(batch.captions)
    with torch.no_grad():
        own, other = (prior.score(code_BN, token_BL)[0].mean() for token_BL in (own_BL, own_BL.roll(1, 0)))
    assert own < other - 0.05 and own < 0.9 * math.log(CODES)


def test_prompts_from_a_file_are_drawn_by_a_released_prior(captioned: Captioned, tmp_path: Path):
    (tmp_path / "prompts.txt").write_text(f"{TEXTS[0]}\n\n{TEXTS[2]}: really?\n")
    released = release(ReleaseConfig(prior=str(captioned.run), out=str(tmp_path / "prior"), licence="mit"))
    assert json.loads((released / "text" / "config.json").read_text())["text"]["encoder"] == "bytes"
    assert "text" in (released / "README.md").read_text()
    config = SampleConfig(
        prior=str(released),
        tokenizer=captioned.coded.tokenizer,
        out=str(tmp_path / "out"),
        count=2,
        guidance=2.0,
        batch_size=3,
        prompts=str(tmp_path / "prompts.txt"),
    )
    assert sample(config) == 0
    described = json.loads((tmp_path / "out" / "samples.json").read_text())["classes"]
    assert [(one["folder"], one["name"], one["label"]) for one in described] == [
        ("0000 bright above", "bright above", -1), ("0001 a bright box_ really_", "a bright box: really?", -1)
    ]  # fmt: skip
    assert sample(replace(config, out=str(tmp_path / "one"), prompts=None, prompt=TEXTS[0], batch_size=2)) == 0
    for name in ("00000.png", "00001.png"):
        one, among = (tmp_path / place / "0000 bright above" / name for place in ("one", "out"))
        assert one.read_bytes() == among.read_bytes()
    with pytest.raises(UserError, match="guidance=2 needs prompts"):
        sample(replace(config, prompts=None, out=str(tmp_path / "none")))
    assert sample(replace(config, prompts=None, guidance=1.0, out=str(tmp_path / "none"))) == 0


def test_holes_are_filled_by_the_given_pictures_captions(captioned: Captioned, tmp_path: Path):
    settings = {"given": captioned.coded.pictures, "limit": 4, "count": 1, "batch_size": 2, "guidance": 2.0}
    config = InpaintConfig(
        prior=str(captioned.run), tokenizer=captioned.coded.tokenizer, out=str(tmp_path / "out"), **settings  # type: ignore[arg-type]
    )  # fmt: skip
    assert inpaint(config) == 0
    assert inpaint(replace(config, prompt=TEXTS[2], out=str(tmp_path / "other"))) == 0
    ours, other = (
        np.concatenate([np.load(file) for file in sorted((tmp_path / place / "codes").iterdir())])
        for place in ("out", "other")
    )
    assert np.array_equal(ours[:, :2], other[:, :2])


WORDS = ("bright", "above", "at", "the", "left", "a", "box")


def test_texts_that_are_cut_are_counted(captioned: Captioned, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    codes, said = load_index(captioned.coded.codes), list[str]()
    run: Any = SimpleNamespace(is_main=True, say=said.append)
    say_cut(load_prior(captioned.run), codes, run)
    longer = sum(text == TEXTS[1] for batch in every_code(codes, batch_size=50) for text in batch.captions)
    assert longer and said == [
        f"warning: captions: {longer} of 84 texts are longer than model.text.tokens=12 bytes and are cut (the longest "
        "has 18), such as 'bright at the left'; 84 of 84 were looked at"
    ]
    condition = text_prior().condition
    assert condition.cut(["brigh", "", "größ"]).startswith("1 of 3 texts are longer than model.text.tokens=5 bytes")
    assert condition.cut(["short", ""]) == "" == tiny_prior().condition.cut(["a text of any length"])
    texts = ["short", "a\u2028text that is much longer than the prior takes"]
    (tmp_path / "prompts.txt").write_bytes("\n".join(texts).encode("utf-16"))
    assert prompts_of(None, str(tmp_path / "prompts.txt")) == texts
    Prompts(text_prior(), texts)
    assert "1 of 2 texts are longer than model.text.tokens=5 bytes" in capsys.readouterr().err
    frozen = TextPrefix(TextConfig(write_encoder(tmp_path / "t5", "t5"), tokens=5), 32, 2)
    assert frozen.length("") == 0 and frozen.length(TEXTS[0] * 9) > 5


def write_encoder(folder: Path, kind: str) -> str:
    """A tiny text encoder with fresh weights, and a tokenizer of words."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {word: i for i, word in enumerate(["<pad>", "<unk>", "</s>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token="</s>"
    )
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    if kind == "t5":
        shape = {"d_model": 24, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
        transformers.T5ForConditionalGeneration(transformers.T5Config(vocab_size=16, **shape)).save_pretrained(folder)
        return str(folder)
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = transformers.CLIPTextConfig(vocab_size=16, max_position_embeddings=9, eos_token_id=2, **tower)
    vision = transformers.CLIPVisionConfig(image_size=8, patch_size=4, **tower)
    if kind == "clip":
        config = transformers.CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=16)
        transformers.CLIPModel(config).save_pretrained(folder)
    else:
        transformers.CLIPTextModel(text).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(("kind", "features"), [("t5", 24), ("clip", 16), ("clip_text", 16)])
def test_a_frozen_encoder_is_used_and_is_no_part_of_the_prior(kind: str, features: int, tmp_path: Path):
    encoder = write_encoder(tmp_path / "encoder", kind)
    prior = text_prior(encoder=encoder)
    token_BL = prior.condition.of_texts(["a bright box", "", "at the left above a bright box"])
    assert token_BL.tolist()[:2] == [[8, 3, 9, -1, -1], [-1] * 5] and (token_BL[2] >= 0).all()
    assert prior.text.features == features
    prior(random_codes(3), token_BL)[0].backward()
    names = [name for name, _ in prior.text.named_parameters()]
    assert names == ["project.weight", "project.bias", "place.weight"], "nothing of the encoder is trained"
    with torch.no_grad():
        expected_BN = prior.score(random_codes(3), token_BL)[0]
    other = prior.score(random_codes(3), token_BL.roll(1, 0))[0]
    assert not torch.allclose(other, expected_BN)
    prior.save_pretrained(tmp_path / "prior")
    saved = sum(path.stat().st_size for path in (tmp_path / "prior" / "text").iterdir())
    assert saved < 4 * (features + 1 + 5) * 32 + 2000, "the encoder's weights are not in it"
    (tmp_path / "encoder").rename(tmp_path / "moved")
    with pytest.raises(
        UserError, match=r"the text encoder .*encoder can't be loaded .*text_encoder in sampling"
    ) as caught:
        load_prior(tmp_path / "prior").text.tokens(["a box"])  # type: ignore[union-attr]
    assert "\n" not in str(caught.value)
    again = load_prior(tmp_path / "prior", text_encoder=str(tmp_path / "moved"))
    with torch.no_grad():
        torch.testing.assert_close(again.score(random_codes(3), token_BL)[0], expected_BN)


def test_what_does_not_fit_is_one_line(captioned: Captioned, coded: Coded, tmp_path: Path):
    with pytest.raises(ValueError, match=r"model\.condition=text is not supported with model\.kind=multiscale"):
        PriorModelConfig(kind="multiscale", condition="text")
    with pytest.raises(ValueError, match=r"model\.text\.tokens=0 is out of range: set it to 1 or more"):
        TextConfig(tokens=0)
    with pytest.raises(UserError, match=r"the text encoder .*nowhere can't be loaded"):
        TextPrefix(TextConfig(str(tmp_path / "nowhere")), 32, 2)
    with pytest.raises(UserError, match=r"tokens=64 is more than the 9 that .* takes: set it to 9 or less"):
        TextPrefix(TextConfig(write_encoder(tmp_path / "clip", "clip")), 32, 2)
    with pytest.raises(UserError, match=r"has no captions, which model\.condition=text needs"):
        checked_codes(settings(coded, tmp_path / "run", model=PriorModelConfig(condition="text")))
    with pytest.raises(UserError, match=r"prompts need a prior trained with model\.condition=text"):
        requested(SampleConfig(prior="", tokenizer="", out="", prompt="a"), tiny_prior())
    with pytest.raises(UserError, match="text_encoder=x needs a prior with a frozen encoder"):
        load_prior(captioned.run, text_encoder="x")


def test_a_release_names_the_encoder_without_its_folder(tmp_path: Path):
    encoder = write_encoder(tmp_path / "alex-at-work" / "clip", "clip")
    config = PriorModelConfig(layers=1, width=16, heads=2, condition="text", text=TextConfig(encoder, tokens=8))
    prior = build_prior(config, SOURCE, ())
    prior.condition.forget_places()
    prior.save_pretrained(tmp_path / "released")
    files = [path for path in (tmp_path / "released").rglob("*") if path.is_file()]
    assert not [path for path in files if b"alex-at-work" in path.read_bytes()]
    assert "frozen encoder `clip`" in str(prior.condition)
    assert load_prior(tmp_path / "released", text_encoder=encoder).condition.prefix == 8
