"""Binds views to the operations of an OpenAPI document, and validates requests against it.

A view names its operation; its method, its path and the shape of its request come from the document and are written
nowhere else. openapi-core validates every request. Responses are validated in the tests only.
"""

import re
from collections.abc import Callable
from functools import cached_property, wraps
from typing import Any, TypeVar
from urllib.parse import unquote_to_bytes

import jsonschema_rs
import orjson
from flask import Blueprint, Request, request
from jsonschema_path import SchemaPath
from openapi_core import V31RequestValidator
from openapi_core.casting.schemas import oas31_types_caster
from openapi_core.casting.schemas.factories import SchemaCastersFactory
from openapi_core.datatypes import RequestParameters
from openapi_core.deserializing.media_types.exceptions import MediaTypeDeserializeError
from openapi_core.deserializing.styles.exceptions import EmptyQueryParameterValue
from openapi_core.templating.media_types.exceptions import MediaTypeNotFound
from openapi_core.templating.paths.datatypes import PathOperationServer
from openapi_core.templating.paths.finders import APICallPathFinder
from openapi_core.validation.request import V31RequestBodyValidator, V31RequestParametersValidator
from openapi_core.validation.request.exceptions import MissingRequiredParameter, MissingRequiredRequestBody
from openapi_core.validation.schemas.exceptions import InvalidSchemaValue

from server.errors import AppError, InvalidRequest, UnsupportedMediaType
from server.http.body import parse_json, read_body, strip_bom
from server.rates import FORM

METHODS = ("get", "put", "post", "delete", "patch")

WHOLE_NUMBER = "must be a whole number of at most 15 digits"

PATTERN_MESSAGES = {
    r"^[^\x00-\x1f\x7f-\x9f]+$": "has a control character, such as a line break or a tab; leave it out",
    r"^[^\x00]*$": "has a NUL character; leave it out",
    r"^[^\x00-\x1f\x7f-\x9f*]*\*?$": "has a control character, or a * that is not at its end; leave it out",
    r"^([1-9][0-9]{0,4}|100000)/(second|minute|hour|day)$": f"must be {FORM}",
    r"^[0-9]{1,15}$": WHOLE_NUMBER,
}
"""What a value does wrong that does not match a pattern, by the patterns of the documents."""

ViewFunction = TypeVar("ViewFunction", bound=Callable[..., Any])


class Contract:
    """One OpenAPI document. Views are bound to it at start; requests are validated from any thread."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        # openapi-core also matches a request's scheme and host against `servers`; `/` matches all, since Flask has
        # routed the request already. It resolves the same references at every request, hence the cache.
        # Keys are judged before, in authentication.py.
        components = _expand_nullable(document.get("components", {}))
        paths = _without_security(document["paths"])
        spec_document = {**document, "servers": [{"url": "/"}], "paths": paths, "components": components}
        spec_document.pop("security", None)
        spec = SchemaPath.from_dict(spec_document, resolved_cache_maxsize=10_000)
        schemas = _SchemaValidators(components)
        rules: dict[str, Any] = {
            "schema_validators_factory": schemas,
            "schema_casters_factory": SchemaCastersFactory(schemas, oas31_types_caster),  # type: ignore[arg-type]
            "path_finder_cls": _CachedPathFinder,
            "extra_media_type_deserializers": {"application/json": parse_json},
        }
        self._validator = V31RequestValidator(spec, **rules)
        self._body_validator = V31RequestBodyValidator(spec, **rules)
        self._parameters_validator = V31RequestParametersValidator(spec, **rules)
        self._operations = {
            operation["operationId"]: (method, path, operation)
            for path, item in document["paths"].items()
            for method, operation in item.items()
            if method in METHODS
        }
        self._unserved = set(self._operations)

    def serves(self, blueprint: Blueprint, operation_id: str) -> Callable[[ViewFunction], ViewFunction]:
        """Decorate the view that answers `operation_id`. Raises LookupError if the document has no such operation.

        The view receives the parameters of path and query by name, and the validated JSON body as `body` if the
        operation has one; None for each that was not sent. A request that does not fit the document raises
        InvalidRequest, UnsupportedMediaType or BodyTooLarge, and the view does not run. A body with `x-is-file` in the
        document is a file: only its media type is checked, and the view reads it. One with `security: []` needs no key.
        """
        if operation_id not in self._operations:
            raise LookupError(f"a view serves {operation_id}, which its document does not have")
        method, path, operation = self._operations[operation_id]
        self._unserved.discard(operation_id)
        query = {
            each["name"]: each["schema"]["type"] for each in operation.get("parameters", []) if each["in"] == "query"
        }
        media_types = _file_media_types(operation)
        is_public = operation.get("security") == []
        has_body = "requestBody" in operation and not media_types
        # Looking for parameters costs openapi-core more than validating a body, so it is left out if there are none.
        # The validator of bodies alone takes every body for required.
        has_more = "parameters" in {*self.document["paths"][path], *operation}
        may_lack_body = has_body and not operation["requestBody"].get("required")
        validator: V31RequestValidator | V31RequestBodyValidator | V31RequestParametersValidator
        if media_types:
            validator = self._parameters_validator
        else:
            validator = self._validator if has_more or may_lack_body else self._body_validator

        def bind(view: ViewFunction) -> ViewFunction:
            @wraps(view)
            def checked(**given: Any) -> Any:
                _require_utf8(request.query_string)
                for name, kind in query.items():
                    given[name] = _read_parameter(name, kind)
                for error in validator.iter_errors(_ReceivedRequest(request, path)):
                    raise _map_error(error)
                if media_types and request.mimetype not in media_types:
                    raise UnsupportedMediaType(f"Send the file with the header Content-Type: {media_types[0]}.")
                if has_body:
                    given["body"] = orjson.loads(strip_bom(request.get_data()) or b"null")
                return view(**given)

            checked.is_public = is_public  # type: ignore[attr-defined]
            rule = re.sub(r"{(\w+)}", r"<\1>", path)
            # Flask would redirect a request without a path to `/`, and callers such as ChatGPT follow no redirect.
            blueprint.add_url_rule(rule, operation_id, checked, methods=[method.upper()], strict_slashes=path != "/")
            return view

        return bind

    def require_all_served(self) -> None:
        """Raise LookupError, which names them, if there are operations without a view."""
        if self._unserved:
            raise LookupError(f"the document promises, nobody serves: {', '.join(sorted(self._unserved))}")


def _file_media_types(operation: dict[str, Any]) -> list[str]:
    """The media types of an operation whose body is a file, the preferred one first; empty for any other."""
    body = operation.get("requestBody", {})
    return list(body["content"]) if body.get("x-is-file") else []


def _without_security(paths: dict[str, Any]) -> dict[str, Any]:
    return {
        path: {
            method: {name: value for name, value in operation.items() if name != "security"}
            if method in METHODS
            else operation
            for method, operation in item.items()
        }
        for path, item in paths.items()
    }


def _expand_nullable(components: dict[str, Any]) -> dict[str, Any]:
    """`components` with `nullable: true` written as a list of types, as JSON Schema has it.

    The documents use `nullable`, a keyword of OpenAPI 3.0, since importers of documents do not read lists of types.
    """
    items = components.get("schemas", {}).items()
    schemas = {name: {**each, "type": [each["type"], "null"]} if each.get("nullable") else each for name, each in items}
    return {**components, "schemas": schemas}


class _ReceivedRequest:
    """The request in the form of openapi-core's protocol, without the copies that its own Flask adapter makes.

    Its path is that of the route, so that the address under which the request came does not matter.
    """

    host_url = ""

    def __init__(self, received: Request, path: str) -> None:
        self.path = self.path_pattern = path
        self.method = "get" if received.method == "HEAD" else received.method.lower()
        # Without parameters: JSON has no charset (RFC 8259), but many clients send one.
        self.content_type = received.mimetype or "application/octet-stream"
        self.parameters = RequestParameters(query=received.args, header=received.headers, path=received.view_args or {})
        self._received = received

    @property
    def body(self) -> bytes:
        return strip_bom(read_body(self._received))


class _CachedPathFinder(APICallPathFinder):
    """Finds each operation once. The cache is bounded, since paths are those of routes."""

    @cached_property
    def _operations(self) -> dict[tuple[str, str], PathOperationServer]:
        return {}

    def find(self, method: str, name: str) -> PathOperationServer:
        operation = self._operations.get((method, name))
        if operation is None:
            operation = self._operations[method, name] = super().find(method, name)
        return operation


class _SchemaValidators:
    """openapi-core's factory of schema validators: each is made once, and validates with jsonschema-rs."""

    def __init__(self, components: dict[str, Any]) -> None:
        self._validators: dict[SchemaPath, _SchemaValidator] = {}
        self._components = components

    def create(self, spec: SchemaPath, schema: SchemaPath, **_: Any) -> "_SchemaValidator":
        validator = self._validators.get(schema)
        if validator is None:
            with schema.resolve() as resolved:
                contents: Any = resolved.contents
            rules = {**contents, "components": self._components}
            fields = list(contents.get("properties", {}))
            validator = self._validators[schema] = _SchemaValidator(jsonschema_rs.Draft202012Validator(rules), fields)
        return validator


class _SchemaValidator:
    def __init__(self, validator: jsonschema_rs.Draft202012Validator, fields: list[str]) -> None:
        self._validator = validator
        self._fields = fields

    def validate(self, value: Any) -> None:
        if self._validator.is_valid(value):
            return
        error = next(self._validator.iter_errors(value))
        if error.kind.name == "additionalProperties" and not error.instance_path:
            *others, last = self._fields
            raise InvalidRequest(f"The body may have {', '.join(others)} and {last}, but no other field.")
        raise InvalidSchemaValue("", "any", [error])


def _map_error(error: Exception) -> AppError:
    """The AppError for an exception of openapi-core, whose own message would repeat the caller's input."""
    cause = error.__cause__
    if isinstance(error, MissingRequiredParameter):
        return InvalidRequest(f"Say {error.name} in the {error.location}.")
    if isinstance(error, MissingRequiredRequestBody):
        return InvalidRequest("Send a JSON body with the request.")
    if isinstance(cause, MediaTypeNotFound):
        return UnsupportedMediaType()
    if isinstance(cause, MediaTypeDeserializeError):
        return InvalidRequest(
            "The body is no JSON text in UTF-8, or is nested too deeply; look for a missing quote, comma or bracket."
        )
    name = getattr(error, "name", None)
    if isinstance(cause, EmptyQueryParameterValue):
        return InvalidRequest(f"{name} must not be empty.")
    if isinstance(cause, InvalidSchemaValue):
        return InvalidRequest(_describe_error(name, next(iter(cause.schema_errors))))
    return InvalidRequest(f"The value of {name} does not fit; /openapi.json tells what does." if name else None)


def _describe_error(name: str | None, error: Any) -> str:
    """What is wrong with a value, in a sentence that contains nothing of it."""
    kind = error.kind.name
    limit = error.kind.value
    if kind == "required":
        return f"The body lacks {limit}."
    if kind == "not" and "required" in limit:
        return f"The body must not have {' and '.join(limit['required'])} together."
    # Only the first part of the path: deeper ones may be names that the caller chose.
    first, *deeper = error.instance_path or ["The body"]
    what = name or (f"A part of {first}" if deeper else str(first))
    wants = {
        "type": f"must be a JSON {' or '.join(limit) if kind == 'type' else limit}",
        "minLength": "must not be empty",
        "maxLength": f"must have at most {limit} characters",
        "pattern": PATTERN_MESSAGES.get(str(limit), "has a character that is not allowed here"),
        "minimum": f"must be at least {limit}",
        "maximum": f"must be at most {limit}",
        "enum": f"must be one of {limit}",
    }
    return f"{what} {wants.get(kind, 'does not fit; /openapi.json tells what does')}."


def _read_parameter(name: str, kind: str) -> Any:
    text = request.args.get(name)
    if text is None or kind != "integer":
        return text
    # int() also takes blanks, underscores and digits of other scripts.
    if not re.fullmatch(r"-?[0-9]{1,15}", text):
        raise InvalidRequest(f"{name} {WHOLE_NUMBER}.")
    return int(text)


def _require_utf8(query_string: bytes) -> None:
    try:
        # Werkzeug would replace invalid bytes by U+FFFD without an error.
        unquote_to_bytes(query_string).decode()
    except UnicodeDecodeError:
        raise InvalidRequest("The query string is no UTF-8; percent-encode its text as UTF-8.") from None
