"""KEDA on a control plane: its operator, and its adapter, which serves the metrics that the horizontal pod autoscaler reads.

Both are KEDA's own programs. What a cluster's network does, names of loopback do here: the API server reaches the adapter by a
service of the type ExternalName, and the operator reaches scalers at the addresses that ScaledObjects name.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import yaml

from infra.kubernetes import programs
from infra.kubernetes.plane import Controller, Plane, self_signed
from infra.local.process import HOST, free_port

NAMESPACE: Final = "keda"
API: Final = "external.metrics.k8s.io"


def find(say: Callable[[str], None] = lambda _: None) -> tuple[Path, Path]:
    """The operator and the adapter, built if they are not there.

    Raises:
        Unavailable: they cannot be built.
    """
    return programs.built("keda-operator", say=say), programs.built("keda-adapter", say=say)


@contextlib.contextmanager
def keda(plane: Plane, operator: Path, adapter: Path) -> Iterator[None]:
    """KEDA, until the `with` ends. Before, all ScaledObjects must be gone: their end needs the operator.

    Raises:
        Unavailable: a program does not start, or the API server does not reach the adapter.
    """
    for path in sorted(operator.parent.glob("*.yaml")):
        plane.apply(yaml.safe_load(path.read_text()))
    plane.wait("established", "crd", "--all")
    plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    certificates = plane.folder / "keda" / "certificates"
    certificates.mkdir(parents=True)
    self_signed("keda", certificates / "tls.crt", certificates / "tls.key")
    shutil.copyfile(certificates / "tls.crt", certificates / "ca.crt")
    asked, served = free_port(), free_port()
    with _operator(plane, operator, certificates, asked), _adapter(plane, adapter, certificates, asked, served):
        plane.apply(*_registration(served))
        plane.wait("available", f"apiservice/v1beta1.{API}")
        yield
    plane.run("kubectl", "delete", "apiservice", f"v1beta1.{API}")


def _operator(plane: Plane, program: Path, certificates: Path, asked: int) -> Controller:
    healthy = free_port()
    command = [
        *_environment(), str(program), f"--kubeconfig={plane.kubeconfig}", f"--cert-dir={certificates}",
        f"--metrics-service-bind-address={HOST}:{asked}", f"--health-probe-bind-address={HOST}:{healthy}",
        "--enable-prometheus-metrics=false", "--zap-log-level=debug",
    ]  # fmt: skip
    return Controller("keda-operator", plane.folder / "keda" / "operator", command, f"http://{HOST}:{healthy}/readyz")


def _adapter(plane: Plane, program: Path, certificates: Path, asked: int, served: int) -> Controller:
    reached = [
        f"--{name}kubeconfig={plane.kubeconfig}" for name in ("", "lister-", "authentication-", "authorization-")
    ]
    command = [
        *_environment(), str(program), *reached, f"--bind-address={HOST}", f"--secure-port={served}", f"--port={free_port()}",
        f"--cert-dir={certificates}", f"--tls-cert-file={certificates / 'tls.crt'}",
        f"--tls-private-key-file={certificates / 'tls.key'}", f"--metrics-service-address={HOST}:{asked}",
    ]  # fmt: skip
    return Controller("keda-adapter", plane.folder / "keda" / "adapter", command, f"https://{HOST}:{served}/healthz")


def _environment() -> list[str]:
    """Both watch all namespaces, and look for Secrets in their own."""
    return ["env", "WATCH_NAMESPACE=", f"POD_NAMESPACE={NAMESPACE}", f"KEDA_CLUSTER_OBJECT_NAMESPACE={NAMESPACE}"]


def _registration(port: int) -> Iterator[dict[str, Any]]:
    """What tells the API server where the metrics are."""
    name = "keda-metrics-apiserver"
    yield {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"type": "ExternalName", "externalName": "localhost", "ports": [{"name": "https", "port": port}]},
    }  # fmt: skip
    yield {
        "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": f"v1beta1.{API}"},
        "spec": {
            "group": API, "version": "v1beta1", "groupPriorityMinimum": 100, "versionPriority": 100,
            "insecureSkipTLSVerify": True, "service": {"name": name, "namespace": NAMESPACE, "port": port},
        },
    }  # fmt: skip
