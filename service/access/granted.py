"""The grant of an HTTP request: the guard stores it in the ASGI scope, and routes of any package read it."""

from starlette.types import Scope

from service.access.tokens import Grant

GRANT = "drd.grant"


def grant_of(scope: Scope) -> Grant:
    """What the caller may do; the guard must have admitted the request."""
    grant: Grant = scope[GRANT]
    return grant
