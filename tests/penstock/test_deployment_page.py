"""docs/deployment.md: its units are systemd's, its commands start, and a real nginx with its configuration passes calls on."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import numpy.typing as npt
import pytest

from infra.local.process import free_port
from penstock.client import Client
from tests.integration.fleet import wait_for
from tests.pages import ROOT, Place
from tests.producers.examples import examples
from tests.producers.test_examples import program

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

PAGE = ROOT / "docs" / "deployment.md"
TEXT = PAGE.read_text()
BLOCKS = {name: block.text for name, block in examples(PAGE).items()}
UNITS = ("penstock", "gateway", "worker")
KEY = {"Authorization": "Bearer a-long-random-text"}


def line(unit: str, key: str = "ExecStart") -> str:
    """The value of a unit's key."""
    (value,) = re.findall(rf"^{key}=(.+)$", BLOCKS[f"{unit}-unit"], re.MULTILINE)
    return str(value)


def environment(unit: str) -> dict[str, str]:
    """What a unit puts into its process' environment."""
    files = re.findall(r"^EnvironmentFile=/etc/penstock/(\w+)\.env$", BLOCKS[f"{unit}-unit"], re.MULTILINE)
    words = [*re.findall(r"^Environment=(.+)$", BLOCKS[f"{unit}-unit"], re.MULTILINE)]
    words += [BLOCKS[f"{file}-environment"] for file in files]
    return dict(pair.split("=", 1) for pair in " ".join(words).split())


def inputs() -> dict[str, npt.NDArray[np.float32]]:
    """Of the model `add`."""
    return {"A": np.array([[1, 2, 3, 4]], np.float32), "B": np.ones((1, 4), np.float32)}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    made = Place(tmp_path)
    made.shell("penstock new add --model-repository models")
    return made


@contextlib.contextmanager
def started(place: Place, command: str, ready: str = "/v2/health/ready", **variables: str) -> Iterator[None]:
    """The command of a unit or a container, in this place."""
    words = command.replace("/opt/penstock/bin/", "").replace("/srv/models", "models").replace("%H", "this-host")
    place.more = variables
    with place.serving(words.replace("/var/lib/penstock/data", "data"), ready=ready):
        yield


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_is_one_that_systemd_takes(tmp_path: Path, unit: str) -> None:
    analyze = program("systemd-analyze")
    name = "penstock" if unit == "penstock" else f"penstock-{unit}"
    file = tmp_path / f"{name}.service"
    assert f"/etc/systemd/system/{file.name}" in TEXT
    file.write_text(BLOCKS[f"{unit}-unit"].replace("/opt/penstock/bin/penstock", sys.executable))
    done = subprocess.run([analyze, "verify", file], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("unit", UNITS)
def test_a_units_variables_are_those_of_its_command(unit: str) -> None:
    command = shlex.split(line(unit))[1]
    text = (ROOT / "docs" / "configuration.md").read_text()
    (section,) = re.findall(rf"^## penstock {command}\n(.*?)^## ", text, re.MULTILINE | re.DOTALL)
    assert {name for name in environment(unit) if f"`{name}`" not in section} == set()
    assert ("PENSTOCK_API_KEY" in environment(unit)) == (unit != "worker")


def test_the_unit_of_one_process_starts_stops_in_order_and_its_folder_is_a_backup(place: Place) -> None:
    with started(place, line("penstock"), **environment("penstock")):
        body = {"A": [1, 2, 3, 4], "B": [1, 1, 1, 1]}
        assert httpx.post(f"{place.url}/v2/models/add/generate", json=body).status_code == 401
        kept = httpx.post(f"{place.url}/v2/models/add/generate", json=body, headers=KEY | {"Prefer": "respond-async"})
        assert kept.status_code == 202
        wait_for("the answer", lambda: httpx.get(place.url + kept.headers["location"], headers=KEY).status_code == 200)
    assert place.ended == 0

    files = {file.name for file in (place.folder / "data").iterdir()}
    assert {name for name in files if name.endswith(".sqlite")} == {"bus.sqlite", "results.sqlite"}
    shutil.move(place.folder / "data", place.folder / "lost")
    shutil.copytree(place.folder / "lost", place.folder / "data")
    with started(place, line("penstock"), **environment("penstock")):
        assert httpx.get(place.url + kept.headers["location"], headers=KEY).json()["outputs"][0]["data"] == [2, 3, 4, 5]


@pytest.mark.servers
def test_the_units_of_a_fleet_serve(place: Place, kafka_bootstrap: str, redis_url: str, prefix: str) -> None:
    gateway, worker = environment("gateway"), environment("worker")
    assert gateway["PENSTOCK_KAFKA"].count(",") == 2
    here = {"PENSTOCK_KAFKA": kafka_bootstrap, "PENSTOCK_REDIS": redis_url, "PENSTOCK_PREFIX": prefix}
    cache = {"PENSTOCK_MODEL_CACHE_DIR": str(place.folder / "cache")}
    port = free_port()
    ready = f"http://127.0.0.1:{port}/v2/health/ready"
    with (
        started(place, line("gateway"), **gateway | here),
        started(
            place,
            line("worker").replace("8003", str(port)),
            ready,
            **worker | here | cache,
        ),
        Client(place.url, api_key="a-long-random-text") as client,
    ):
        wait_for("the model", lambda: [model.get("state") for model in client.models()] == ["READY"])
        answer = client.infer("add", inputs(), timeout=30)

    assert answer.outputs["SUM"].tolist() == [[2, 3, 4, 5]]


def test_the_containers_command_is_one_of_the_image(place: Place) -> None:
    build, install, run = BLOCKS["container"].splitlines()
    image = (ROOT / "infra" / "Dockerfile").read_text()
    words = shlex.split(run)
    command = words[words.index("penstock", words.index("PENSTOCK_API_KEY")) + 1 :]

    assert 'ENTRYPOINT ["penstock"]' in image
    owner = install.split()[3]
    assert f"USER {owner}:" in image
    assert "-f infra/Dockerfile" in build
    here = shlex.join(["penstock", *command]).replace("/models", "models").replace("/data", "data")
    with started(place, here, PENSTOCK_API_KEY="a-long-random-text"):
        assert httpx.get(f"{place.url}/v2/models/add/ready", headers=KEY).status_code == 200


def test_nginx_passes_calls_on(place: Place) -> None:
    nginx = program("nginx", "/usr/sbin/nginx")
    port = free_port()
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost", "-keyout", "key", "-out", "crt"],
        check=True, capture_output=True, cwd=place.folder,
    )  # fmt: skip
    place.write("penstock.conf", configured(place, port))
    folders = " ".join(
        f"{name}_temp_path {place.folder / name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "" if os.geteuid() else "user root; "
    place.write(
        "nginx.conf",
        f"{user}daemon off; pid nginx.pid; error_log stderr; events {{ }} "
        f"http {{ access_log off; {folders} include penstock.conf; }}",
    )
    place.write("index.html", "a page")
    flags = ("--grpc-port", str(place.ports["8001"]), "--allowed-hosts", "penstock_http")
    with started(place, shlex.join(["penstock", "serve", "--model-repository", "models", *flags])):
        proxy = subprocess.Popen([nginx, "-p", place.folder, "-c", "nginx.conf"], stderr=subprocess.PIPE, text=True)
        try:
            said = called(place, port)
        finally:
            proxy.terminate()
            _, errors = proxy.communicate(timeout=20)

    assert said == ["a page", [2, 3, 4, 5], [2, 3, 4, 5], True, 404], errors
    assert "emerg" not in errors


def configured(place: Place, port: int) -> str:
    """The page's configuration with this place's names."""
    text = (
        BLOCKS["nginx"]
        .replace("listen 443", f"listen 127.0.0.1:{port}")
        .replace("/var/www/penstock", str(place.folder))
    )
    for kind in ("crt", "key"):
        text = text.replace(f"/etc/ssl/models.example.com.{kind}", str(place.folder / kind))
    return text


def called(place: Place, port: int) -> list[object]:
    """The page itself, a call over HTTP and one over gRPC, whether the gateway refuses a large body, the status of the metrics."""
    trust = ssl.create_default_context(cafile=str(place.folder / "crt"))
    base = f"https://localhost:{port}"
    wait_for("nginx", lambda: answers(base, trust))
    found: list[object] = [httpx.get(f"{base}/index.html", verify=trust).text]
    for url in (base, f"grpcs://localhost:{port}"):
        with Client(url, tls=trust) as client:
            found += client.infer("add", inputs(), timeout=20).outputs["SUM"].tolist()
    large = httpx.post(f"{base}/v2/models/add/infer", content=b" " * (16 * 2**20 + 1), verify=trust, timeout=30)
    return [*found, "send fewer rows" in large.json()["error"], httpx.get(f"{base}/metrics", verify=trust).status_code]


def answers(base: str, trust: ssl.SSLContext) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"{base}/index.html", verify=trust).status_code == 200
    return False
