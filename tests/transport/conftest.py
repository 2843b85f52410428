import pytest

pytest.register_assert_rewrite("tests.transport.contract_bus", "tests.transport.contract_results")
