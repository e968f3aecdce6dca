"""What the options of an exported run must be. They are sent upstream when the run is repeated."""

from typing import Any

NAME: dict[str, Any] = {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"}
"""The name of a function or of a JSON schema."""

_BIG = 1_000_000_000

_TOOL = {
    "type": "object",
    "required": ["type", "function"],
    "properties": {
        "type": {"const": "function"},
        "function": {
            "type": "object",
            "required": ["name"],
            "properties": {
                "name": NAME,
                "description": {"type": ["string", "null"]},
                "parameters": {"type": ["object", "null"]},
                "strict": {"type": ["boolean", "null"]},
            },
        },
    },
}
_TOOL_CHOICE = {
    "anyOf": [
        {"enum": ["none", "required"]},
        {
            "type": "object",
            "required": ["type", "function"],
            "properties": {
                "type": {"const": "function"},
                "function": {"type": "object", "required": ["name"], "properties": {"name": NAME}},
            },
        },
    ]
}
_RESPONSE_FORMAT = {
    "type": "object",
    "required": ["type"],
    "properties": {"type": {"enum": ["text", "json_object", "json_schema"]}},
    "if": {"properties": {"type": {"const": "json_schema"}}},
    "then": {
        "required": ["json_schema"],
        "properties": {"json_schema": {"type": "object", "required": ["name"], "properties": {"name": NAME}}},
    },
}

PARAMETERS: dict[str, Any] = {
    "temperature": {"type": "number", "minimum": 0, "maximum": 2},
    "top_p": {"type": "number", "minimum": 0, "maximum": 1},
    "max_completion_tokens": {"type": "integer", "minimum": 1, "maximum": _BIG},
    "reasoning_effort": {"enum": ["none", "minimal", "low", "medium", "high", "xhigh", "max"]},
    "response_format": _RESPONSE_FORMAT,
    "logprobs": {"const": True},
    "top_logprobs": {"type": "integer", "minimum": 0, "maximum": 20},
    "tools": {"type": "array", "minItems": 1, "maxItems": 128, "items": _TOOL},
    "tool_choice": _TOOL_CHOICE,
    "parallel_tool_calls": {"const": False},
}
"""The parameters that the dialects make of requests; no run has others."""

OPTIONS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "model": {"type": ["string", "null"], "minLength": 1, "maxLength": 256, "pattern": r"^[^\x00-\x1f\x7f-\x9f]+$"},
        "system_prompt": {"type": ["string", "null"], "pattern": r"^[^\x00]*$"},
        "parameters": {"type": ["object", "null"], "properties": PARAMETERS, "additionalProperties": False},
        "last_messages": {"type": ["integer", "null"], "minimum": 0, "maximum": _BIG},
        "details": {"type": ["object", "null"]},
    },
}


def load_parameters(parameters: dict[str, Any]) -> dict[str, Any]:
    """The parameters with whole numbers as integers: JSON Schema takes 1.0 for one, an upstream may not."""
    return {
        name: int(value) if PARAMETERS[name].get("type") == "integer" else value for name, value in parameters.items()
    }
