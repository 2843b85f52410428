"""`python -m tests.page.screenshots docs/page`: the pictures of docs/page.md, of a real server under real calls."""

from __future__ import annotations

import asyncio
import io
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from penstock.client import AsyncClient
from tests.page.browser import Browser, Page
from tests.page.conftest import KEY, ROOT, start

CALLERS = 24
Inputs = dict[str, np.typing.NDArray[np.generic]]
COLOURS = 200
"""Of a picture: a page has few, and the files stay small."""


def save(page: Page, file: Path, *, height: int = 0) -> None:
    """Write what the screen shows, or the first `height` pixels of the page."""
    picture = Image.open(io.BytesIO(page.picture(whole=bool(height)))).convert("RGB")
    if height:
        picture = picture.crop((0, 0, picture.width, min(height, picture.height)))
    picture.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(file, optimize=True)


async def call(url: str, ended: threading.Event) -> None:
    """Call the digits from several callers, and the texts from one, until it is to end."""
    images = np.load(ROOT / "examples" / "digits" / "held_back.npz")["pixels"]

    def digits() -> Iterator[Inputs]:
        number = 0
        while not ended.is_set():
            number += 1
            yield {"image": images[number % len(images)].reshape(1, 1, 8, 8).astype(np.float32)}

    def texts() -> Iterator[Inputs]:
        while not ended.is_set():
            yield {"text": np.array([["remove a folder and all files in it"]], np.object_)}

    async def drain(model: str, inputs: Iterator[Inputs], callers: int) -> None:
        async for outcome in client.infer_many(model, inputs, concurrency=callers):
            assert outcome.error is None, outcome.error

    async with AsyncClient(url) as client:
        await asyncio.gather(drain("digits", digits(), CALLERS), drain("docstrings", texts(), 2))


def shoot(folder: Path, seconds: float = 40.0) -> None:
    """Write all pictures, the first after so many seconds of calls."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        (work / "models").mkdir()
        for example in ("digits", "docstrings"):
            (work / "models" / example).symlink_to(ROOT / "examples" / example / "models" / example)
        server, browser, ended = start(work), Browser(work / "profile"), threading.Event()
        calling = threading.Thread(target=lambda: asyncio.run(call(server.url, ended)))
        try:
            calling.start()
            page = browser.open(f"{server.url}/#model=digits")
            page.resize(1280, 900)
            page.wait_text("#connection", "Live")
            page.pump(seconds)
            save(page, folder / "overview.png", height=1010)
            ended.set()
            calling.join()

            pixels = np.load(ROOT / "examples" / "digits" / "held_back.npz")["pixels"][5]
            file = work / "digit.png"
            Image.fromarray(np.round(pixels.reshape(8, 8) * 255).astype(np.uint8)).save(file)
            page.choose("#inputs select", "file")
            page.give_file("#inputs input[type=file]", file)
            page.wait("!document.querySelector('#inputs canvas').hidden")
            page.click("#send")
            page.wait_text("#sending", "Answered in")
            page.run("document.querySelector('#chosen').scrollIntoView()")
            page.pump(0.5)
            save(page, folder / "answer.png")
            page.resize(390, 844, dark=True)
            page.run("scrollTo(0, 0)")
            save(page, folder / "narrow.png")
            page.close()
        finally:
            ended.set()
            calling.join()
            browser.close()
            server.stop()
        keyed, browser = start(work, "--api-key", KEY), Browser(work / "keyed")
        try:
            page = browser.open(keyed.url)
            page.resize(800, 330)
            page.wait_text("#key-form", "API key")
            save(page, folder / "key.png")
        finally:
            browser.close()
            keyed.stop()


if __name__ == "__main__":
    shoot(Path(sys.argv[1]))
