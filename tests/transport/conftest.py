import pytest

for module in ("bus_site", "contract_bus", "contract_claims", "contract_members", "contract_results", "results_site"):
    pytest.register_assert_rewrite(f"tests.transport.{module}")
