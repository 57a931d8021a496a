"""What a client is told when something is wrong: OpenAI's error objects, one line that names the field and the mend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, HTTPException
from fastapi import Request as HttpRequest
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as RoutingError

from diffpo.config import suggest

LONGEST = 1000
"""Characters of a message: what a client sent may be quoted in it."""
KINDS = {401: "authentication_error", 429: "rate_limit_error"}
"""OpenAI's `type` by status, where it is not the client's request or the server."""
SCALARS = {"str", "int", "float", "bool"}


class ApiError(HTTPException):
    """An answer that is an error."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, headers)
        self.message, self.param, self.code = message, param, code

    @property
    def body(self) -> dict[str, Any]:
        kind = KINDS.get(self.status_code, "server_error" if self.status_code >= 500 else "invalid_request_error")
        return {
            "error": {"message": _clean(self.message), "type": kind, "param": _clean(self.param), "code": self.code}
        }

    @property
    def response(self) -> JSONResponse:
        return JSONResponse(self.body, self.status_code, self.headers)


def _clean(text: str | None) -> str | None:
    """What was typed may be long, and may hold halves of characters, which no response can."""
    return text and text[:LONGEST].encode("utf-8", "replace").decode()


def of_validation(error: RequestValidationError) -> ApiError:
    """The first thing that is wrong with a body, in one line."""
    errors = error.errors()
    first = errors[0]
    if first["type"] == "json_invalid":
        return ApiError(400, f"the body is no JSON: {first['ctx']['error']}")
    path = _path(first)
    telling = [each for each in errors if each["type"] == "wrong_field" and _path(each)[: len(path)] == path]
    if telling:  # our own, of a part of what may be of several kinds
        errors, path = telling[:1], _path(telling[0])
    if not path:
        return ApiError(400, "the body must be a JSON object, sent with Content-Type: application/json")
    # a field that may be of several kinds fails as each of them
    reasons = dict.fromkeys(_reason(each) for each in errors if _path(each)[: len(path)] == path)
    name = ".".join(map(str, path))
    return ApiError(400, f"{name}: {', or '.join(reasons)}", param=name)


def _path(error: Mapping[str, Any]) -> tuple[str | int, ...]:
    """Fields and indices down to what is wrong, without pydantic's names of the kinds that a field may have."""
    place: Sequence[str | int] = error["loc"][1:]
    path = [part for part in place if isinstance(part, int) or (part.isidentifier() and part not in SCALARS)]
    named = error.get("ctx", {}).get("name")  # of errors that an object raises for one of its fields
    return (*path, *([named] if named else []))


def _reason(error: Mapping[str, Any]) -> str:
    message = str(error["msg"])
    return message[:1].lower() + message[1:]


def answer_errors(app: FastAPI) -> None:
    """Have every error of the app answered as OpenAI's are."""

    @app.exception_handler(ApiError)
    @app.exception_handler(RequestValidationError)
    async def refused(_: HttpRequest, error: ApiError | RequestValidationError) -> JSONResponse:
        return (error if isinstance(error, ApiError) else of_validation(error)).response

    @app.exception_handler(RoutingError)
    async def routing(request: HttpRequest, error: RoutingError) -> JSONResponse:
        said = str(error.detail)
        if error.status_code == 404:
            said = f"{request.url.path}: no such path{suggest(request.url.path, sorted(app.openapi()['paths']))}"
        elif error.status_code == 405:
            said = f"{request.method} is not what {request.url.path} takes"
        return ApiError(error.status_code, said, headers=error.headers).response

    @app.exception_handler(Exception)
    async def ours(_: HttpRequest, error: Exception) -> JSONResponse:
        """The server prints the traceback itself."""
        return ApiError(500, f"the server failed: {type(error).__name__}").response
