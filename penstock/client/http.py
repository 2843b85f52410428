"""The clients over HTTP: thin shells of `requests` around httpx."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Self

import httpx
import numpy.typing as npt
import orjson

from penstock.client import requests
from penstock.client.requests import InferOptions, InferResult, Pending, Request
from protocol.errors import InvalidArgument, Unavailable
from protocol.tensors import Tensor
from protocol.urls import is_loopback

_SLACK: Final = 5.0
"""Seconds for which the connection outlives the requested deadline, so that the gateway's 504 arrives."""


def _headers(api_key: str) -> dict[str, str]:
    if not api_key.isascii() or not api_key.isprintable():
        raise InvalidArgument(
            "the API key must be printable ASCII, as it travels in a header"
        )  # the message does not repeat it
    return {"Authorization": f"Bearer {api_key}"} if api_key else {}


def _direct(url: str) -> dict[str, None] | None:
    """Bypass the environment's proxies for a server on this machine, which they cannot reach."""
    host = httpx.URL(url).host
    return {"http://": None, "https://": None, "all://": None} if is_loopback(host) else None


def _checked(url: str) -> str:
    """The URL, if it is valid for a gateway.

    Raises:
        InvalidArgument: it is not.
    """
    try:
        parsed = httpx.URL(url)
        if parsed.port is not None and not 0 < parsed.port < 65536:
            why = f"port {parsed.port} is not between 1 and 65535"
        elif parsed.scheme not in ("http", "https") or not parsed.host or "%20" in parsed.host:
            why = "it needs a scheme and a host"
        else:
            return url
    except (httpx.InvalidURL, ValueError) as error:
        why = str(error)
    raise InvalidArgument(f"--url {url!r} is not a gateway's URL, such as http://localhost:8000: {why}") from None


def _document(response: httpx.Response) -> Any:
    try:
        return orjson.loads(response.content)
    except orjson.JSONDecodeError:
        start = response.text[:40]
        raise InvalidArgument(
            f"{response.url} is not answered by a gateway: its answer begins with {start!r}"
        ) from None


def _read_timeout(options: InferOptions) -> float | None:
    return None if options.timeout is None else options.timeout + _SLACK


class Client:
    """A blocking client of one gateway (or of a load balancer in front of several).

    Args:
        url: for example `http://localhost:8000`.
        api_key: the gateway's, if it has one.

    Every method raises `protocol.errors.FleetError` with the gateway's text, and `Unavailable` when it cannot be reached.
    """

    def __init__(self, url: str = "http://localhost:8000", *, api_key: str = "") -> None:
        timeout = httpx.Timeout(10, read=None)
        self._http = httpx.Client(
            base_url=_checked(url), headers=_headers(api_key), timeout=timeout, mounts=_direct(url)
        )

    def infer(self, model: str, inputs: Mapping[str, npt.ArrayLike | Tensor], **options: Any) -> InferResult:
        """Run the model and wait for its answer.

        Args:
            model: its name.
            inputs: arrays by name, with a leading batch dimension where the model batches; a `Tensor` where the array's dtype
                does not say the datatype (BF16).
            **options: `version`, `outputs` (names; default all), `parameters`, `label`, `timeout` (seconds; then a
                DEADLINE_EXCEEDED error) and `idempotency_key` (repeat the call with the same key as often as you like: it
                runs once).
        """
        asked = InferOptions(**options)
        response = self._send(requests.infer(model, inputs, asked), _read_timeout(asked))
        return requests.result(response.headers, response.content)

    def submit(self, model: str, inputs: Mapping[str, npt.ArrayLike | Tensor], **options: Any) -> Pending:
        """Submit a request without waiting for its answer; returns once it is durable. Takes the options of `infer`."""
        asked = InferOptions(**options)
        return requests.pending(self._send(requests.infer(model, inputs, asked, wait=False), 30.0).headers)

    def result(self, pending: Pending, wait: float = 30.0) -> InferResult | None:
        """The answer of a submitted request, waiting up to `wait` seconds for it; None if it is not ready."""
        response = self._send(Request("GET", f"{pending.location}?wait_s={wait:g}", {}), wait + _SLACK)
        return None if response.status_code == 202 else requests.result(response.headers, response.content)

    def cancel(self, pending: Pending) -> None:
        """Cancel a submitted request; if it is already running, it continues and its answer is dropped."""
        self._send(Request("DELETE", pending.location, {}), 30.0)

    def get(self, path: str) -> Any:
        """GET any JSON of the API, for example `/v2/models/digits/config`."""
        return _document(self._send(Request("GET", path, {}), 30.0))

    def models(self) -> list[dict[str, Any]]:
        """The repository index: name, version, state and reason of every model version."""
        index: list[dict[str, Any]] = _document(self._send(Request("POST", "/v2/repository/index", {}), 30.0))
        return index

    def ready(self) -> bool:
        """Whether the gateway accepts requests now."""
        try:
            return self._http.get("/v2/health/ready", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    def _send(self, request: Request, read_timeout: float | None) -> httpx.Response:
        timeout = httpx.Timeout(10, read=read_timeout)
        try:
            response = self._http.request(
                request.method, request.path, headers=request.headers, content=request.body, timeout=timeout
            )
        except httpx.HTTPError as exc:
            raise Unavailable(f"{self._http.base_url} cannot be reached: {exc}") from exc
        requests.check(response.status_code, response.headers, response.content)
        return response

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Pool:
    """A small connection pool: httpx scans all connections of a pool for every request, a cost that grows with their square."""

    WIDTH: Final = 4

    def __init__(self, url: str, headers: dict[str, str], context: ssl.SSLContext) -> None:
        limits = httpx.Limits(max_connections=self.WIDTH, max_keepalive_connections=self.WIDTH)
        timeout = httpx.Timeout(10, read=None)
        self.http = httpx.AsyncClient(
            base_url=url, headers=headers, timeout=timeout, limits=limits, verify=context, mounts=_direct(url)
        )
        self.busy = 0


class AsyncClient:
    """The client for asyncio; `infer`, `submit`, `result` and `cancel` as in `Client`.

    Args:
        url, api_key: as for `Client`.
        connections: how many requests may be in flight at once; more wait.
    """

    def __init__(self, url: str = "http://localhost:8000", *, api_key: str = "", connections: int = 100) -> None:
        context = ssl.create_default_context()
        count = -(-connections // _Pool.WIDTH)
        self._url = _checked(url)
        self._pools = [_Pool(url, _headers(api_key), context) for _ in range(count)]

    async def infer(self, model: str, inputs: Mapping[str, npt.ArrayLike | Tensor], **options: Any) -> InferResult:
        """See `Client.infer`."""
        asked = InferOptions(**options)
        response = await self._send(requests.infer(model, inputs, asked), _read_timeout(asked))
        return requests.result(response.headers, response.content)

    async def submit(self, model: str, inputs: Mapping[str, npt.ArrayLike | Tensor], **options: Any) -> Pending:
        """See `Client.submit`."""
        asked = InferOptions(**options)
        return requests.pending((await self._send(requests.infer(model, inputs, asked, wait=False), 30.0)).headers)

    async def result(self, pending: Pending, wait: float = 30.0) -> InferResult | None:
        """See `Client.result`."""
        response = await self._send(Request("GET", f"{pending.location}?wait_s={wait:g}", {}), wait + _SLACK)
        return None if response.status_code == 202 else requests.result(response.headers, response.content)

    async def cancel(self, pending: Pending) -> None:
        """See `Client.cancel`."""
        await self._send(Request("DELETE", pending.location, {}), 30.0)

    async def _send(self, request: Request, read_timeout: float | None) -> httpx.Response:
        timeout = httpx.Timeout(10, read=read_timeout, pool=None)
        pool = min(self._pools, key=_busy)
        pool.busy += 1
        try:
            response = await pool.http.request(
                request.method, request.path, headers=request.headers, content=request.body, timeout=timeout
            )
        except httpx.HTTPError as exc:
            raise Unavailable(f"{self._url} cannot be reached: {exc}") from exc
        finally:
            pool.busy -= 1
        requests.check(response.status_code, response.headers, response.content)
        return response

    async def close(self) -> None:
        """Close the connections."""
        for pool in self._pools:
            await pool.http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _busy(pool: _Pool) -> int:
    return pool.busy
