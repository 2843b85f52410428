"""Who may call what: one static API key, compared in constant time, and restricted groups of routes. Without a key, everyone on
this machine may call. Pure.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Final

from gateway.rest.framing import Hosts
from gateway.rest.origins import NONE, Origins
from gateway.restrictions import Restrictions
from protocol.errors import Code, FleetError
from protocol.messages import ANONYMOUS

NOT_RESTRICTED: Final = Restrictions(())
KEYED: Final = "key"
"""The principal of a caller with the API key."""


class Access:
    """Turns a call's headers into its principal: "-" if no key is configured, else "key".

    Attributes:
        restrictions: of groups of routes or methods.
        hosts: under which this gateway may be called, and by whose pages; None with a key, which says who may.
        origins: of pages that may read answers.
    """

    __slots__ = ("_key", "hosts", "origins", "restrictions")

    def __init__(
        self,
        api_key: str,
        restrictions: Restrictions = NOT_RESTRICTED,
        hosts: Hosts | None = None,
        origins: Origins = NONE,
    ) -> None:
        self._key = api_key.encode()
        self.restrictions = restrictions
        self.hosts = None if api_key else hosts
        self.origins = origins

    @property
    def open(self) -> bool:
        """Whether no key is configured."""
        return not self._key

    def principal(self, fields: Mapping[bytes, bytes]) -> str:
        """The principal of a call.

        Args:
            fields: headers by lower-case name.

        Raises:
            FleetError: UNAUTHENTICATED; the key is missing or wrong.
        """
        if not self._key:
            return ANONYMOUS
        shown = fields.get(b"x-api-key")
        if shown is None:
            scheme, _, value = fields.get(b"authorization", b"").partition(b" ")
            shown = value.strip() if scheme.lower() == b"bearer" else b""
        if not hmac.compare_digest(shown, self._key):
            raise FleetError(
                "the API key is missing or wrong: send it as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'",
                code=Code.UNAUTHENTICATED,
            )
        return KEYED
