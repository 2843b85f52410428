"""The servers of a control plane, and all of them together.

Invariants: everything listens on loopback; a token of this run is the only way in; the nodes are made up by kwok, which marks pods
as running and starts no process.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import secrets
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from infra.kubernetes import crds, programs
from infra.local.process import HOST, LocalServer, free_port
from protocol.errors import Unavailable

STACKS: Final = {"api": 0, "nodes": 3}
"""What runs, and how many nodes: `api`: etcd and the API server; `nodes`: also controllers, a scheduler and made-up nodes."""
TOOLS: Final[Mapping[str, Callable[[], Path]]] = {
    "helm": programs.helm,
    "helm3": lambda: programs.built("helm3"),
    "kubectl": programs.kubectl,
}
"""Name → where it is; helm is version 4."""
COMMAND_TIMEOUT: Final = 120.0
WAIT: Final = 60.0
"""Seconds for which a condition is waited for."""


class Etcd(LocalServer):
    """etcd with its data in `data`."""

    name = "etcd"

    def __init__(self, data: Path, program: Path) -> None:
        super().__init__(data.absolute())
        self._program = program
        self.port, self._peer_port = free_port(), free_port()

    @property
    def address(self) -> str:
        """The clients' URL."""
        return f"http://{HOST}:{self.port}"

    def ports(self) -> tuple[int, ...]:
        """Of clients and of peers."""
        return self.port, self._peer_port

    def choose_ports(self) -> bool:
        """Takes two others."""
        self.port, self._peer_port = free_port(), free_port()
        return True

    def command(self) -> list[str]:
        """One member; a crash may lose its data, which nobody keeps."""
        peer = f"http://{HOST}:{self._peer_port}"
        return [
            str(self._program), "--name=one", f"--data-dir={self.data / 'data'}", "--unsafe-no-fsync",
            f"--listen-client-urls={self.address}", f"--advertise-client-urls={self.address}",
            f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=one={peer}",
        ]  # fmt: skip

    def answers(self) -> bool:
        """Whether it is healthy."""
        return _get(f"{self.address}/health") is not None


@dataclasses.dataclass(frozen=True)
class Keys:
    """Files that the servers share.

    Attributes:
        folder: where they are.
        token: of the administrator.
    """

    folder: Path
    token: str

    @property
    def accounts(self) -> Path:
        """The key that signs the tokens of service accounts."""
        return self.folder / "accounts.pem"

    @property
    def tokens(self) -> Path:
        """The API server's file of tokens."""
        return self.folder / "tokens.csv"

    @property
    def front(self) -> tuple[Path, Path]:
        """Certificate and key with which the API server calls servers of further APIs in its clients' names."""
        return self.folder / "front.crt", self.folder / "front.key"

    @property
    def kubeconfig(self) -> Path:
        """How clients reach the API server."""
        return self.folder / "kubeconfig"


def make_keys(folder: Path) -> Keys:
    """New keys in a folder that only this user reads.

    Raises:
        Unavailable: openssl is missing.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    keys = Keys(folder, secrets.token_hex(16))
    keys.tokens.write_text(f'{keys.token},admin,admin,"system:masters"\n')
    openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(keys.accounts))
    self_signed("front", *keys.front)
    return keys


def self_signed(name: str, certificate: Path, key: Path) -> None:
    """A certificate of loopback that is its own authority, for clients and servers.

    Raises:
        Unavailable: openssl is missing.
    """
    openssl(
        "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", f"/CN={name}",
        "-addext", f"subjectAltName=DNS:localhost,IP:{HOST}", "-keyout", str(key), "-out", str(certificate),
    )  # fmt: skip


def openssl(*arguments: str) -> None:
    """Run openssl.

    Raises:
        Unavailable: it is missing or fails.
    """
    try:
        subprocess.run(["openssl", *arguments], capture_output=True, timeout=COMMAND_TIMEOUT, check=True)
    except (OSError, subprocess.SubprocessError) as exc:
        raise Unavailable(f"openssl, which makes keys and certificates, fails: {exc}") from exc


class ApiServer(LocalServer):
    """kube-apiserver, with Pod Security admission."""

    name = "kube-apiserver"
    ready_timeout = 180.0

    def __init__(self, data: Path, program: Path, etcd: Etcd, keys: Keys) -> None:
        super().__init__(data.absolute())
        self._program, self._etcd, self._keys = program, etcd, keys
        self.port = free_port()

    @property
    def address(self) -> str:
        """Its URL."""
        return f"https://{HOST}:{self.port}"

    @property
    def certificate(self) -> Path:
        """What it made for itself, with its authority's."""
        return self.data / "certificates" / "apiserver.crt"

    def ports(self) -> tuple[int, ...]:
        """The one port."""
        return (self.port,)

    def choose_ports(self) -> bool:
        """Takes another."""
        self.port = free_port()
        return True

    def command(self) -> list[str]:
        """Writes the kubeconfig."""
        cluster = {"server": self.address, "certificate-authority": str(self.certificate)}
        config = {
            "apiVersion": "v1", "kind": "Config", "current-context": "here",
            "clusters": [{"name": "here", "cluster": cluster}],
            "users": [{"name": "admin", "user": {"token": self._keys.token}}],
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": "admin"}}],
        }  # fmt: skip
        self._keys.kubeconfig.write_text(yaml.safe_dump(config))
        self._keys.kubeconfig.chmod(0o600)
        certificate, key = self._keys.front
        return [
            str(self._program), f"--etcd-servers={self._etcd.address}",
            f"--bind-address={HOST}", f"--secure-port={self.port}", f"--cert-dir={self.data / 'certificates'}",
            "--service-account-issuer=https://kubernetes.default.svc", "--service-cluster-ip-range=10.96.0.0/16",
            f"--service-account-key-file={self._keys.accounts}", f"--service-account-signing-key-file={self._keys.accounts}",
            f"--token-auth-file={self._keys.tokens}", "--authorization-mode=RBAC", "--enable-admission-plugins=PodSecurity",
            f"--requestheader-client-ca-file={certificate}", "--requestheader-username-headers=X-Remote-User",
            "--requestheader-group-headers=X-Remote-Group", "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            f"--proxy-client-cert-file={certificate}", f"--proxy-client-key-file={key}",
        ]  # fmt: skip

    def answers(self) -> bool:
        """Whether it is ready."""
        return self.certificate.exists() and self.get("/readyz") is not None

    def get(self, path: str) -> bytes | None:
        """The body of a GET; None if there is no answer, or an error."""
        return _get(f"{self.address}{path}", self.certificate, self._keys.token)


class Controller(LocalServer):
    """A server that watches the API server and writes to it: controller manager, scheduler, kwok, KEDA."""

    ready_timeout = 180.0

    def __init__(self, name: str, data: Path, command: Sequence[str], healthy: str) -> None:
        super().__init__(data.absolute())
        self.name, self._command, self._healthy = name, command, healthy

    @property
    def address(self) -> str:
        """Where it says whether it is healthy."""
        return self._healthy

    def command(self) -> list[str]:
        """The given one."""
        return list(self._command)

    def answers(self) -> bool:
        """Whether it is healthy."""
        return _get(self._healthy) is not None


def _get(url: str, certificate: Path | None = None, token: str = "") -> bytes | None:
    context = None
    if url.startswith("https:"):
        context = ssl.create_default_context(cafile=str(certificate) if certificate else None)
        if certificate is None:  # of a loopback server's health, which is no secret
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(url, headers=headers)  # noqa: S310  # our own URL
    try:
        with urllib.request.urlopen(request, timeout=5, context=context) as answer:  # noqa: S310
            return bytes(answer.read())
    except OSError:
        return None


class Plane:
    """A running control plane.

    Attributes:
        folder: for the data and logs of what runs.
        api: the API server.
        keys: its files.
        servers: everything that runs, in the order of its start.
        warnings: what the API server warned of, by way of the tools.
    """

    def __init__(self, folder: Path, api: ApiServer, keys: Keys, servers: list[LocalServer]) -> None:
        self.folder, self.api, self.keys, self.servers = folder, api, keys, servers
        self.warnings: list[str] = []

    @property
    def kubeconfig(self) -> Path:
        """For any client."""
        return self.keys.kubeconfig

    def wait(self, condition: str, *what: str) -> None:
        """Wait until objects have a condition. kubectl itself fails at a status that nobody has written yet.

        Raises:
            Unavailable: it takes longer than `WAIT` seconds.
        """
        end = time.monotonic() + WAIT
        while True:
            try:
                self.run("kubectl", "wait", f"--for=condition={condition}", *what, f"--timeout={WAIT:.0f}s")
            except Unavailable as exc:
                if "accessor error" not in exc.message or time.monotonic() > end:
                    raise
                time.sleep(0.1)
            else:
                return

    def run(self, tool: str, *arguments: str, given: str | None = None) -> str:
        """What a tool prints; what it warns of goes to `warnings`.

        Args:
            tool: one of `TOOLS`.
            arguments: of it.
            given: its standard input.

        Raises:
            Unavailable: it fails; with its own words.
        """
        environment = {
            **os.environ,
            "KUBECONFIG": str(self.kubeconfig),
            "HELM_CACHE_HOME": str(self.keys.folder / "helm"),
        }
        command = [str(TOOLS[tool]()), *arguments]
        try:
            done = subprocess.run(
                command, env=environment, input=given, capture_output=True, text=True, timeout=COMMAND_TIMEOUT, check=False
            )  # fmt: skip
        except subprocess.TimeoutExpired as exc:
            raise Unavailable(f"{tool} {' '.join(arguments)} took more than {COMMAND_TIMEOUT:.0f} s") from exc
        if done.returncode != 0:
            raise Unavailable(f"{tool} {' '.join(arguments)} failed with {done.returncode}: {done.stderr.strip()}")
        self.warnings += [line for line in done.stderr.splitlines() if "warning" in line.lower()]
        return done.stdout

    def apply(self, *objects: dict[str, Any]) -> None:
        """Create or change objects.

        Raises:
            Unavailable: the API server refuses one.
        """
        self.run(
            "kubectl", "apply", "--server-side", "-f", "-", given="\n---\n".join(json.dumps(each) for each in objects)
        )

    def get(self, *arguments: str) -> Any:
        """`kubectl get … -o json`, parsed."""
        return json.loads(self.run("kubectl", "get", *arguments, "-o", "json"))


@contextlib.contextmanager
def plane(folder: Path, stack: str = "nodes", say: Callable[[str], None] = lambda _: None) -> Iterator[Plane]:
    """A control plane with the definitions of KEDA's and Prometheus' custom resources, until the `with` ends.

    Args:
        folder: for its data and logs.
        stack: what runs; see `STACKS`.
        say: is told what is built, which takes minutes the first time.

    Raises:
        Unavailable: a program cannot be built, or does not start.
    """
    server = {name: programs.built(name, say=say) for name in ("etcd", "kube-apiserver")}
    if STACKS[stack]:
        server |= {name: programs.built(name, say=say) for name in ("controllers", "kwok")}
    keys = make_keys(folder / "keys")
    with contextlib.ExitStack() as running:
        etcd = running.enter_context(Etcd(folder / "etcd", server["etcd"]))
        api = running.enter_context(ApiServer(folder / "kube-apiserver", server["kube-apiserver"], etcd, keys))
        made = Plane(folder, api, keys, [etcd, api])
        definitions = [yaml.safe_load(path.read_text()) for path in crds.files()]
        made.apply(*definitions)
        made.wait("established", "crd", "--all")
        if STACKS[stack]:
            for each in controllers(folder, server["controllers"], server["kwok"], keys):
                made.servers.append(running.enter_context(each))
            nodes = "\n---\n".join(json.dumps(node(f"node-{number}")) for number in range(STACKS[stack]))
            made.run("kubectl", "create", "-f", "-", given=nodes)  # a server-side apply would drop their status
        yield made


def controllers(folder: Path, control: Path, kwok: Path, keys: Keys) -> Iterator[Controller]:
    """The servers that act on what the API server holds."""
    manager = (
        f"--service-account-private-key-file={keys.accounts}",
        "--horizontal-pod-autoscaler-sync-period=2s",
        "--node-monitor-grace-period=600s",  # kwok makes no pod ready again whose node was late, on a busy machine
    )
    for name, more in (("kube-controller-manager", manager), ("kube-scheduler", ())):
        port, data = free_port(), folder / name
        command = [
            str(control),
            name,
            f"--kubeconfig={keys.kubeconfig}",
            "--leader-elect=false",
            f"--bind-address={HOST}",
        ]
        command += [f"--secure-port={port}", f"--cert-dir={data / 'certificates'}", *more]
        yield Controller(name, data, command, f"https://{HOST}:{port}/healthz")
    port = free_port()
    command = [
        str(kwok),
        f"--kubeconfig={keys.kubeconfig}",
        "--manage-all-nodes=true",
        f"--server-address={HOST}:{port}",
    ]
    yield Controller("kwok", folder / "kwok", command, f"http://{HOST}:{port}/healthz")


def node(name: str) -> dict[str, Any]:
    """A node that kwok makes up, with eight GPUs."""
    room = {"cpu": "64", "memory": "256Gi", "pods": "110", "ephemeral-storage": "1Ti", "nvidia.com/gpu": "8"}
    labels = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64", "zone": "a"}
    return {
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": labels, "annotations": {"kwok.x-k8s.io/node": "fake"}},
        "status": {"allocatable": room, "capacity": room},
    }  # fmt: skip
