"""Which options aiokafka gets, and what its errors become: no broker."""

from __future__ import annotations

import pytest
from aiokafka import errors

from protocol.errors import ConfigError, NotFound, TooLarge, Unavailable
from protocol.transport.kafka.connection import connection_options, translated
from protocol.transport.settings import TransportSettings


class TestConnection:
    def settings(self, **security: str) -> TransportSettings:
        return TransportSettings(kafka="broker:9092", redis="redis://store", kafka_security=security)

    def test_security_is_passed_through(self) -> None:
        options = connection_options(
            self.settings(
                security_protocol="SASL_PLAINTEXT",
                sasl_mechanism="PLAIN",
                sasl_plain_username="u",
                sasl_plain_password="p",
            )
        )
        assert options["security_protocol"] == "SASL_PLAINTEXT"
        assert (options["sasl_plain_username"], options["sasl_plain_password"]) == ("u", "p")
        assert "ssl_context" not in options

    def test_an_unknown_option_is_refused_without_its_value(self) -> None:
        with pytest.raises(ConfigError, match="sasl_plain_pasword") as caught:
            connection_options(self.settings(sasl_plain_pasword="secret"))
        assert "secret" not in caught.value.message

    def test_certificates_that_are_not_there_are_a_config_error(self) -> None:
        with pytest.raises(ConfigError, match="cannot be read"):
            connection_options(self.settings(security_protocol="SSL", ssl_cafile="/nowhere/ca.pem"))

    def test_the_password_is_in_no_repr(self) -> None:
        assert "secret" not in repr(self.settings(sasl_plain_password="secret"))

    @pytest.mark.parametrize(
        ("error", "ours"),
        [
            (errors.MessageSizeTooLargeError(), TooLarge),
            (errors.UnknownTopicOrPartitionError(), NotFound),
            (errors.NotEnoughReplicasError(), Unavailable),
            (TimeoutError(), Unavailable),
            (OSError("refused"), Unavailable),
        ],
    )
    def test_errors_are_ours(self, error: Exception, ours: type) -> None:
        assert type(translated(error, "publishing to t at broker:9092")) is ours
        assert "broker:9092" in translated(error, "publishing to t at broker:9092").message
