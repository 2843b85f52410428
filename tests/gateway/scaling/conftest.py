from __future__ import annotations

from tests.gateway.conftest import fleet, pytest_asyncio_loop_factories

__all__ = ["fleet", "pytest_asyncio_loop_factories"]
