from collections.abc import AsyncIterator

import pytest
from aiokafka.admin import AIOKafkaAdminClient

for module in ("bus_site", "contract_bus", "contract_claims", "contract_members", "contract_results", "results_site"):
    pytest.register_assert_rewrite(f"tests.transport.{module}")


@pytest.fixture
async def admin(kafka_bootstrap: str) -> AsyncIterator[AIOKafkaAdminClient]:
    """An operator's access to the shared broker."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    await admin.start()
    yield admin
    await admin.close()
