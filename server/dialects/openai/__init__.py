"""The dialects that speak OpenAI's APIs, and what these share."""
