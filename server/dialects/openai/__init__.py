"""The dialects of OpenAI's APIs, and what they share."""
