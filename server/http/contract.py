"""An OpenAPI document, and the blueprint that serves it.

A view names the operation that it serves; its method, its path and the shape of its request come from the document and
are written nowhere else. openapi-core judges every request; responses are held to the document in the tests.
"""

import re
from codecs import BOM_UTF8
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
from openapi_core.validation.request import V31RequestBodyValidator
from openapi_core.validation.request.exceptions import MissingRequiredParameter, MissingRequiredRequestBody
from openapi_core.validation.schemas.exceptions import InvalidSchemaValue
from werkzeug.exceptions import RequestEntityTooLarge

from server.errors import AppError, BodyTooLarge, InvalidRequest, UnsupportedMediaType

METHODS = ("get", "put", "post", "delete", "patch")

WHOLE_NUMBER = "must be a whole number of at most 15 digits"

BROKEN_OFF = "The body broke off before its end; send it again."

MOST_LEVELS = 100
"""How deeply a body may be nested: less than what can be written as JSON again, with some of our own around it."""

PATTERNS = {
    r"^[^\x00-\x1f\x7f-\x9f]+$": "has a control character, such as a line break or a tab; leave it out",
    r"^[^\x00]*$": "has a NUL character; leave it out",
    r"^[0-9]{1,15}$": WHOLE_NUMBER,
}
"""What each pattern of the documents asks for, in words."""

View = TypeVar("View", bound=Callable[..., Any])


class Contract:
    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        # The judge matches servers by scheme and host, which is none of its business: routing has done that. It looks
        # the same places up at every request, so they are kept.
        components = _with_null(document.get("components", {}))
        judged = {**document, "servers": [{"url": "/"}], "components": components}
        spec = SchemaPath.from_dict(judged, resolved_cache_maxsize=10_000)
        schemas = _Schemas(components)
        rules: dict[str, Any] = {
            "schema_validators_factory": schemas,
            "schema_casters_factory": SchemaCastersFactory(schemas, oas31_types_caster),  # type: ignore[arg-type]
            "path_finder_cls": _KeptPathFinder,
            "extra_media_type_deserializers": {"application/json": _json},
        }
        self._judge = V31RequestValidator(spec, **rules)
        self._judge_of_bodies = V31RequestBodyValidator(spec, **rules)
        self._operations = {
            operation["operationId"]: (method, path, operation)
            for path, item in document["paths"].items()
            for method, operation in item.items()
            if method in METHODS
        }
        self._unserved = set(self._operations)

    def serves(self, blueprint: Blueprint, operation_id: str) -> Callable[[View], View]:
        """Make the view beneath answer `operation_id`. Raises LookupError where the document has no such operation.

        The view receives the parameters of path and query by name, and the checked JSON body as `body` where the
        operation has one; None for each that was not sent. A request that breaks the document raises InvalidRequest,
        UnsupportedMediaType or BodyTooLarge, and the view does not run.
        """
        if operation_id not in self._operations:
            raise LookupError(f"a view serves {operation_id}, which its document does not have")
        method, path, operation = self._operations[operation_id]
        self._unserved.discard(operation_id)
        query = {
            each["name"]: each["schema"]["type"] for each in operation.get("parameters", []) if each["in"] == "query"
        }
        has_body = "requestBody" in operation
        # Looking for parameters where there are none costs the judge more than the body. The judge of bodies takes
        # every body for required.
        has_more = {"parameters", "security"} & {*self.document, *self.document["paths"][path], *operation}
        may_lack_body = has_body and not operation["requestBody"].get("required")
        judge = self._judge if has_more or may_lack_body else self._judge_of_bodies

        def bind(view: View) -> View:
            @wraps(view)
            def checked(**given: Any) -> Any:
                _require_utf8(request.query_string)
                for name, kind in query.items():
                    given[name] = _parameter(name, kind)
                for problem in judge.iter_errors(_Received(request, path)):
                    raise _refusal(problem)
                if has_body:
                    given["body"] = orjson.loads(_unmarked(request.get_data()) or b"null")
                return view(**given)

            rule = re.sub(r"{(\w+)}", r"<\1>", path)
            # An address without any path is the root; Flask would redirect to it, and callers follow no redirect.
            blueprint.add_url_rule(rule, operation_id, checked, methods=[method.upper()], strict_slashes=path != "/")
            return view

        return bind

    def require_all_served(self) -> None:
        """Raises LookupError that names each operation without a view."""
        if self._unserved:
            raise LookupError(f"the document promises, nobody serves: {', '.join(sorted(self._unserved))}")


def _with_null(components: dict[str, Any]) -> dict[str, Any]:
    """`components` in which `nullable`, a word of OpenAPI 3.0, counts: importers take no list of types."""
    named = components.get("schemas", {}).items()
    schemas = {name: {**each, "type": [each["type"], "null"]} if each.get("nullable") else each for name, each in named}
    return {**components, "schemas": schemas}


class _Received:
    """The request as openapi-core's protocol has it, without the copies that its own adapter makes.

    Told by its route, so that the address that it came to never matters.
    """

    host_url = ""

    def __init__(self, received: Request, path: str) -> None:
        self.path = self.path_pattern = path
        self.method = "get" if received.method == "HEAD" else received.method.lower()
        # Without its parameters: JSON has no charset (RFC 8259), though many a client sends one.
        self.content_type = received.mimetype or "application/octet-stream"
        self.parameters = RequestParameters(query=received.args, header=received.headers, path=received.view_args or {})
        self._received = received

    @property
    def body(self) -> bytes:
        return _unmarked(_whole_body(self._received))


class _KeptPathFinder(APICallPathFinder):
    """Finds each operation once; the names are our own routes, so there are only so many."""

    @cached_property
    def _found(self) -> dict[tuple[str, str], PathOperationServer]:
        return {}

    def find(self, method: str, name: str) -> PathOperationServer:
        found = self._found.get((method, name))
        if found is None:
            found = self._found[method, name] = super().find(method, name)
        return found


class _Schemas:
    """openapi-core's schema validators, each made once, with jsonschema-rs doing the work."""

    def __init__(self, components: dict[str, Any]) -> None:
        self._made: dict[SchemaPath, _Schema] = {}
        self._components = components

    def create(self, spec: SchemaPath, schema: SchemaPath, **_: Any) -> "_Schema":
        made = self._made.get(schema)
        if made is None:
            with schema.resolve() as resolved:
                contents: Any = resolved.contents
            rules = {**contents, "components": self._components}
            made = self._made[schema] = _Schema(jsonschema_rs.Draft202012Validator(rules))
        return made


class _Schema:
    def __init__(self, rules: jsonschema_rs.Draft202012Validator) -> None:
        self._rules = rules

    def validate(self, value: Any) -> None:
        if self._rules.is_valid(value):
            return
        raise InvalidSchemaValue("", "any", [next(self._rules.iter_errors(value))])


def _unmarked(body: bytes) -> bytes:
    """Without a byte order mark, which Windows writes and a reader of JSON may ignore (RFC 8259, 8.1)."""
    return body.removeprefix(BOM_UTF8)


def _json(body: bytes) -> Any:
    """Raises ValueError where it is no JSON text, and InvalidRequest where it is nested too deeply."""
    value = orjson.loads(body)
    if body.count(b"[") + body.count(b"{") > MOST_LEVELS and _is_deeper(value, MOST_LEVELS):
        raise InvalidRequest("The body is nested too deeply.")
    return value


def _is_deeper(value: Any, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    return not levels or any(
        _is_deeper(each, levels - 1) for each in (value.values() if isinstance(value, dict) else value)
    )


def _whole_body(received: Request) -> bytes:
    """The request's body. Raises BodyTooLarge, and InvalidRequest where it ends before its end.

    Werkzeug cuts a body of unknown length off at the limit, and takes what came of one of known length for all of it.
    """
    length, most = received.content_length, received.max_content_length
    try:
        body = received.get_data()
        goes_on = length is None and len(body) == most and received.environ["wsgi.input"].read(1)
    except RequestEntityTooLarge:
        raise BodyTooLarge from None
    except Exception as problem:  # The HTTP server's own, of any kind: chunks that are none, a caller who left.
        raise InvalidRequest(BROKEN_OFF) from problem
    if goes_on:
        raise BodyTooLarge
    if length is not None and len(body) < length:
        raise InvalidRequest(BROKEN_OFF)
    return body


def _refusal(problem: Exception) -> AppError:
    """Our failure for one of openapi-core's, whose own words would echo the input."""
    cause = problem.__cause__
    if isinstance(problem, MissingRequiredParameter):
        return InvalidRequest(f"Say {problem.name} in the {problem.location}.")
    if isinstance(problem, MissingRequiredRequestBody):
        return InvalidRequest("Send a JSON body with the request.")
    if isinstance(cause, MediaTypeNotFound):
        return UnsupportedMediaType()
    if isinstance(cause, MediaTypeDeserializeError):
        return InvalidRequest(
            "The body is no JSON text in UTF-8, or is nested too deeply; look for a missing quote, comma or bracket."
        )
    name = getattr(problem, "name", None)
    if isinstance(cause, EmptyQueryParameterValue):
        return InvalidRequest(f"{name} must not be empty.")
    if isinstance(cause, InvalidSchemaValue):
        return InvalidRequest(_sentence(name, next(iter(cause.schema_errors))))
    return InvalidRequest(f"The value of {name} does not fit; /openapi.json tells what does." if name else None)


def _sentence(name: str | None, error: Any) -> str:
    """What is wrong with a value, in words that hold nothing of it."""
    kind = error.kind.name
    limit = error.kind.value
    if kind == "required":
        return f"The body lacks {limit}."
    if kind == "not" and "required" in limit:
        return f"The body must not have {' and '.join(limit['required'])} together."
    # Of the place within the body, its first word alone: what lies deeper may be the caller's own text.
    first, *deeper = error.instance_path or ["The body"]
    what = name or (f"A part of {first}" if deeper else str(first))
    wants = {
        "type": f"must be a JSON {' or '.join(limit) if kind == 'type' else limit}",
        "minLength": "must not be empty",
        "maxLength": f"must have at most {limit} characters",
        "pattern": PATTERNS.get(str(limit), "has a character that is not allowed here"),
        "minimum": f"must be at least {limit}",
        "maximum": f"must be at most {limit}",
        "enum": f"must be one of {limit}",
    }
    return f"{what} {wants.get(kind, 'does not fit; /openapi.json tells what does')}."


def _parameter(name: str, kind: str) -> Any:
    text = request.args.get(name)
    if text is None or kind != "integer":
        return text
    # int() takes more than the contract does: blanks, underscores, digits of other scripts.
    if not re.fullmatch(r"-?[0-9]{1,15}", text):
        raise InvalidRequest(f"{name} {WHOLE_NUMBER}.")
    return int(text)


def _require_utf8(query_string: bytes) -> None:
    try:
        # Werkzeug would put a replacement character where the bytes are no text.
        unquote_to_bytes(query_string).decode()
    except UnicodeDecodeError:
        raise InvalidRequest("The query string is no UTF-8; percent-encode its text as UTF-8.") from None
