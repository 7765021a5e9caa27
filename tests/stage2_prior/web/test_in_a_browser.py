"""The demo page in a browser: drop a picture, look at reconstruction and codes, click one, sample a class."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from launch.stages.listing import ROOT
from stage1_tokenizer import Tokenizer
from stage2_prior.priors.build import load_prior
from stage2_prior.web.page import Demo
from tests.browser import Browser
from tests.stage2_prior.conftest import Coded, Trained

DROP_HERE = """document.querySelector("[aria-label='Drop an image file here to upload']")"""
SAMPLE_TAB = "[...document.querySelectorAll('button[role=tab]')].filter(e => e.innerText.trim() == 'Sample').at(-1)"


@pytest.fixture(scope="module")
def address(coded: Coded, trained: Trained) -> Iterator[str]:
    """The page, served by the command."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    line = [sys.executable, "-m", "stage2_prior.demo", "--tokenizer", coded.tokenizer, "--prior", trained.prior]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GRADIO_ANALYTICS_ENABLED": "False", "PYTHONUNBUFFERED": "1"}
    command = [*line, "--port", str(port)]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            assert any("Running on" in said for said in server.stdout), "the demo ended before it was up"
            yield f"http://127.0.0.1:{port}"
        finally:
            server.kill()


def block(label: str) -> str:
    """The part of the page with a label."""
    return f"[...document.querySelectorAll('.block')].find(e => e.innerText.trim().startsWith('{label}'))"


def picture(browser: Browser, element: str) -> np.ndarray:
    """The pixels of an image in the page, once it is loaded."""
    browser.wait(f"{element}?.complete && {element}.naturalWidth")
    contents = browser.value(f"""(image => {{
        const canvas = document.createElement('canvas');
        [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
        canvas.getContext('2d').drawImage(image, 0, 0);
        return canvas.toDataURL('image/png');
    }})({element})""")
    return np.asarray(Image.open(io.BytesIO(b64decode(contents.split(",")[1]))).convert("RGB"), dtype=float)


def same(shown: np.ndarray, wanted: Any) -> bool:
    """Equal but for the compression that the page sends pictures with."""
    pixels = np.asarray(wanted.convert("RGB"), dtype=float)
    return shown.shape == pixels.shape and float(np.abs(shown - pixels).mean()) < 8


@pytest.mark.slow
def test_drop_a_picture_and_sample_a_class(address: str, coded: Coded, trained: Trained, tmp_path: Path) -> None:
    demo = Demo(Tokenizer.from_pretrained(coded.tokenizer), load_prior(trained.prior))
    assert demo.prior is not None
    Image.linear_gradient("L").save(tmp_path / "gradient.png")
    seen, back, colours, codes, figures = demo.reconstruct(Image.open(tmp_path / "gradient.png"))
    name = demo.prior.vocabulary.classes[1]
    with Browser(tmp_path / "profile", 1400, 900) as browser:
        browser.open(address)
        browser.wait(f"!!{DROP_HERE}")
        browser.drop(tmp_path / "gradient.png", DROP_HERE)
        for label, wanted in (("as the tokenizer", seen), ("reconstruction", back), ("codes", colours)):
            assert same(picture(browser, f"{block(label)}?.querySelector('img')"), wanted), label
        assert figures.split("**")[1] in browser.value("document.body.innerText")  # "16 codes"

        code = codes[len(codes) // 2][0]
        browser.click(f"{block('codes')}.querySelector('img')", x=0.02, y=0.51)
        browser.wait(f"document.querySelector('input[aria-label=code]').value == '{code}'")
        (first, _), *_ = demo.neighbours(code)
        assert same(picture(browser, "document.querySelector('.thumbnail-item img')"), first)
        browser.screenshot(tmp_path / "reconstruct.png")

        browser.click(SAMPLE_TAB)
        browser.wait("document.querySelector('button.primary')?.checkVisibility()")
        browser.click("document.querySelector('input[aria-label=class]')")
        option = f"[...document.querySelectorAll('[role=option]')].find(e => e.innerText.trim() == '{name}')"
        browser.wait(f"!!{option}")
        browser.click(option)
        browser.click("document.querySelector('button.primary')")
        samples = demo.sample(name, 8, 2.0, 1.0, 0)
        for number, wanted in enumerate(samples, 1):
            shown = f"{block('samples')}?.querySelector(\"[aria-label='Thumbnail {number} of 8'] img\")"
            assert same(picture(browser, shown), wanted), f"sample {number}"
        browser.screenshot(tmp_path / "sample.png")
        assert not browser.errors
