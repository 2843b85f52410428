"""The OpenAPI 3.1 document of the gateway, served at `/openapi.json`. Pure.

Decided here: what the document says. A test compares its routes with those of the application, and schemathesis calls a fleet by
it. `document` is the whole, `schemas` has the bodies.
"""

from gateway.rest.openapi.document import document

__all__ = ["document"]
