"""Reads what one gateway says, over HTTP."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Final
from urllib.parse import quote

from penstock.client import Client
from penstock.status.documents import gateway_view, number
from penstock.status.view import FleetView, Key
from protocol.errors import FleetError, NotFound, Unavailable

MAX_ASKED: Final = 50
"""Versions whose configuration one reading asks for; those that wait or run come first, the others at later readings."""


class GatewayReader:
    """One gateway.

    Args:
        url: of it.
        api_key: its key, if it has one.
        clock: seconds since the epoch.
    """

    def __init__(self, url: str, api_key: str = "", clock: Callable[[], float] = time.time) -> None:
        self._url = url
        self._client = Client(url, api_key=api_key, retries=1)
        self._clock = clock
        self._max_batch: dict[Key, int] = {}

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def read(self) -> FleetView:
        """What it says now.

        Raises:
            Unavailable: it does not answer.
            CodecError: what answers is no gateway.
        """
        index = self._client.models()
        statistics = self._client.get("/v2/models/stats?per_worker=true")
        scaling = self._scaling()
        ready = "" if self._client.ready() else "/v2/health/ready does not answer 200"
        documents = index, statistics, scaling
        view = gateway_view(self._url, self._clock(), ready, documents, self._max_batch)
        self._learn(view)
        return gateway_view(self._url, view.at, ready, documents, self._max_batch, self._overview())

    def _overview(self) -> object | None:
        """None from an older gateway, or one that restricts it."""
        with contextlib.suppress(FleetError):
            answered: object = self._client.get("/v2/fleet/models")
            return answered
        return None

    def _scaling(self) -> object | None:
        try:
            answered: object = self._client.get("/v2/fleet/scaling")
        except NotFound:
            return None
        except FleetError as error:
            if isinstance(error, Unavailable):
                raise
            return None
        return answered

    def _learn(self, view: FleetView) -> None:
        unknown = [model for model in view.models if model.key not in self._max_batch and model.state == "READY"]
        unknown.sort(key=lambda model: -model.batches_run)
        for model in unknown[:MAX_ASKED]:
            path = f"/v2/models/{quote(model.model, safe='')}/versions/{quote(model.version, safe='')}/config"
            try:
                config = self._client.get(path)
            except FleetError:
                continue
            most = number(config.get("max_batch_size")) if isinstance(config, dict) else None
            self._max_batch[model.key] = int(most or 0)
