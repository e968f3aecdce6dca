"""OpenAI's Assistants API."""
