"""The HTTP dialects. Each has a blueprint and an OpenAPI document."""
