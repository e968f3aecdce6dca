"""OpenAI's Assistants API, which OpenAI has shut down, over the same conversations: a thread is one of them."""
