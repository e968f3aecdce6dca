"""The official `openai` package with nothing changed but `base_url`: assistants, threads, messages, runs, streams.

pip install openai
python examples/assistants.py
BASE_URL=https://chat.example.com python examples/assistants.py

CONVERSATION_KEY is the key of a protected server.
"""

import os
import warnings

from openai import OpenAI

warnings.filterwarnings("ignore", category=DeprecationWarning)  # OpenAI shut its own down; this server goes on.

BASE_URL = os.environ.get("BASE_URL", "http://localhost:10000")

# The package wants a key, also for a server that is open.
client = OpenAI(base_url=f"{BASE_URL}/api/v1", api_key=os.environ.get("CONVERSATION_KEY") or "none")
threads = client.beta.threads


def ask(thread_id: str, assistant_id: str, question: str) -> str:
    """The whole reply."""
    threads.messages.create(thread_id, role="user", content=question)
    run = threads.runs.create_and_poll(thread_id=thread_id, assistant_id=assistant_id)
    (reply,) = threads.messages.list(thread_id, run_id=run.id)
    return reply.content[0].text.value


def read(thread_id: str, assistant_id: str, question: str) -> None:
    """Prints the reply while it is written."""
    threads.messages.create(thread_id, role="user", content=question)
    with threads.runs.stream(thread_id=thread_id, assistant_id=assistant_id) as stream:
        for piece in stream.text_deltas:
            print(piece, end="", flush=True)
    print()


def main() -> None:
    # `asst_default` is there without being made; its model is the server's default.
    model = client.beta.assistants.retrieve("asst_default").model
    assistant = client.beta.assistants.create(model=model, name="Poet", instructions="Answer in one sentence.")
    thread = threads.create()
    print(ask(thread.id, assistant.id, "My cat is called Grace."))
    read(thread.id, assistant.id, "What is my cat called?")
    for message in threads.messages.list(thread.id, order="asc"):
        print(f"{message.role}: {message.content[0].text.value}")
    threads.delete(thread.id)
    client.beta.assistants.delete(assistant.id)


if __name__ == "__main__":
    main()
