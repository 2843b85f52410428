from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.fleet import Process, wait_for
from tests.page.browser import Browser, Page

ROOT = Path(__file__).parents[2]
MARKUP = "<img src=x onerror=window.hacked=1>"
"""A model's name is a folder's: it may have any character but a slash."""
KEY = "s3cret-key"
MODELS = {
    "shout": """
        import numpy as np
        class Model:
            inputs = {"TEXT": ("BYTES", [1])}
            outputs = {"TEXT": ("BYTES", [1])}
            max_batch_size = 8
            def predict(self, TEXT):
                return {"TEXT": np.array([[f"<b>{text.decode()}</b>" for text in row] for row in TEXT.tolist()], object)}
    """,
    MARKUP: """
        class Model:
            inputs = {"A": ("FP32", [4]), "<b>B</b>": ("INT64", [2])}
            outputs = {"<script>window.hacked=1</script>": ("FP32", [4]), "ALSO": ("INT64", [2])}
            max_batch_size = 16
            def predict(self, **inputs):
                if inputs["A"][0, 0] < 0:
                    raise ValueError("<script>window.hacked=1</script> is negative")
                return {"<script>window.hacked=1</script>": 2 * inputs["A"], "ALSO": inputs["<b>B</b>"]}
    """,
    "half": """
        class Model:
            inputs = {"X": ("FP16", [3])}
            outputs = {"Y": ("FP16", [3])}
            max_batch_size = 4
            def predict(self, X):
                return {"Y": X + X}
    """,
    "picture": """
        class Model:
            inputs = {"IMAGE": ("UINT8", [-1, -1, 3])}
            outputs = {"SHAPE": ("INT64", [3]), "FIRST": ("UINT8", [3])}
            def predict(self, IMAGE):
                import numpy as np
                return {"SHAPE": np.array([IMAGE.shape[1:]] * len(IMAGE), np.int64), "FIRST": IMAGE[:, 0, 0]}
    """,
    "slow": """
        import time
        class Model:
            inputs = {"SECONDS": ("FP32", [1])}
            outputs = {"SECONDS": ("FP32", [1])}
            max_batch_size = 1
            def predict(self, SECONDS):
                time.sleep(float(SECONDS[0, 0]))
                return {"SECONDS": SECONDS}
    """,
    "broken": """
        class Model:
            inputs = {"A": ("FP32", [4])}
            outputs = {"B": ("FP32", [4])}
            def __init__(self):
                raise RuntimeError("<i>no weights</i>")
            def predict(self, A):
                return {"B": A}
    """,
}


def write_models(folder: Path, *names: str) -> Path:
    """A repository with these of `MODELS`, or all of them and the demo's."""
    for name in names or MODELS:
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "1" / "model.py").write_text(textwrap.dedent(MODELS[name]))
    if not names:
        (folder / "digits").symlink_to(ROOT / "examples" / "digits" / "models" / "digits")
    return folder


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    running = Browser(tmp_path_factory.mktemp("chromium") / "profile")
    try:
        yield running
    finally:
        running.close()


def start(folder: Path, *arguments: str, models: tuple[str, ...] = (), http_port: int = 0) -> Process:
    """A server of its own, ready."""
    repository = folder / "models"
    if not repository.exists():
        write_models(repository, *models)
    command = ("serve", "--model-repository", str(repository), *arguments)
    process = Process("serve", folder / "serve.log", *command, http_port=http_port)
    key = arguments[arguments.index("--api-key") + 1] if "--api-key" in arguments else ""
    url = f"http://[::1]:{process.http_port}" if "::1" in arguments else process.url
    try:
        wait_for("the server", lambda: ready(url, key))
    except BaseException:
        print(process.tail())
        process.stop()
        raise
    return process


def ready(url: str, key: str = "") -> bool:
    """Whether the server takes calls."""
    from penstock.client import Client

    with Client(url, api_key=key) as client:
        return client.ready()


@pytest.fixture(scope="session")
def server(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """One server with all models, for every test that stops nothing. Without a browser, none is started."""
    process = start(tmp_path_factory.mktemp("page"), "--no-exit-on-error")
    try:
        yield process
    finally:
        process.stop()


@pytest.fixture
def opened(browser: Browser, server: Process) -> Iterator[Callable[[str], Page]]:
    """Opens the page at a model; afterwards, nothing has violated the policy and nothing has asked another host."""
    pages: list[Page] = []

    def open_at(model: str = "digits") -> Page:
        page = browser.open(f"{server.url}/#model={model}")
        page.wait_text("#connection", "Live")
        pages.append(page)
        return page

    yield open_at
    for page in pages:
        assert page.problems() == []
        assert {url.split("/", 3)[2] for url in page.requested() if not url.startswith("blob:")} == {server.url[7:]}
        page.close()
