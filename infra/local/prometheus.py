"""Prometheus on this machine: the rules of infra/prometheus, the processes of a fleet as targets, and the dashboard as a page.

The page is a console of Prometheus itself, made of the same dashboard.json that Grafana imports, so it needs no other server.
"""

from __future__ import annotations

import http.client
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from infra.local.process import HOST, OnePortServer, free_port
from protocol.errors import Unavailable

FILES = Path(__file__).parents[1] / "prometheus"
PAGE = "/consoles/penstock.html"
"""Where Prometheus serves the dashboard."""
MARK = "DASHBOARD_JSON"
"""In panels.html: dashboard.json comes here."""


def find_prometheus() -> str:
    """The program.

    Raises:
        Unavailable: it is not installed; says how to get it.
    """
    found = shutil.which("prometheus")
    if found is None:
        raise Unavailable(
            "there is no program prometheus; on Debian: apt-get install --no-install-recommends prometheus"
        )
    return found


def page() -> str:
    """The console: panels.html with dashboard.json in it. Two braces begin a template of Prometheus: they are escaped."""
    board = json.dumps(json.loads((FILES / "dashboard.json").read_text()))
    escaped = board.replace("{{", "\\u007b\\u007b").replace("</", "<\\/")
    return (FILES / "panels.html").read_text().replace(MARK, escaped)


def configuration(targets: Mapping[str, Sequence[str]], every: float) -> str:
    """Prometheus' configuration. JSON is YAML.

    Args:
        targets: HOST:PORT of the processes of each job; the jobs are those of infra/prometheus/prometheus.yml.
        every: seconds between two scrapes, and between two evaluations of the rules.
    """
    jobs = [{"job_name": job, "static_configs": [{"targets": list(of)}]} for job, of in targets.items()]
    interval = f"{round(every * 1000)}ms"
    document = {
        "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval},
        "rule_files": [str(FILES / name) for name in ("recording.yml", "alerts.yml")],
        "scrape_configs": jobs,
    }
    return json.dumps(document, indent=1)


class PrometheusServer(OnePortServer):
    """One Prometheus with its files in `data`.

    Args:
        data: its folder.
        targets: see `configuration`.
        port: on loopback; 0 for a free one.
        every: seconds between two scrapes.

    Raises:
        Unavailable: Prometheus is not installed.
    """

    name = "Prometheus"

    def __init__(self, data: Path, targets: Mapping[str, Sequence[str]], *, port: int = 0, every: float = 5.0) -> None:
        super().__init__(data.absolute())
        self.program = find_prometheus()
        self.port = port or free_port()
        self._configuration = configuration(targets, every)

    @property
    def url(self) -> str:
        """Of Prometheus."""
        return f"http://{self.address}"

    @property
    def page_url(self) -> str:
        """Of the dashboard."""
        return self.url + PAGE

    def command(self) -> list[str]:
        """The command line; writes configuration and page."""
        consoles = self.data / "consoles"
        consoles.mkdir(parents=True, exist_ok=True)
        (consoles / Path(PAGE).name).write_text(page())
        (self.data / "prometheus.json").write_text(self._configuration)
        return [
            self.program, f"--config.file={self.data / 'prometheus.json'}", f"--storage.tsdb.path={self.data / 'tsdb'}",
            "--storage.tsdb.retention.time=1d", f"--web.listen-address={self.address}", f"--web.console.templates={consoles}",
            f"--web.console.libraries={consoles}",
        ]  # fmt: skip

    def answers(self) -> bool:
        """Whether it serves queries."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=1.0)
        try:
            connection.request("GET", "/-/ready")
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
