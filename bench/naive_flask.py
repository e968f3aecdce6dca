"""For comparison: a minimal conversation server with Flask, as one would write it in an afternoon."""

import os
from collections import defaultdict
from typing import Any

from flask import Flask, request
from openai import OpenAI

app = Flask(__name__)
client = OpenAI(api_key="none", base_url=os.environ["OPENAI_BASE_URL"])
histories: dict[str, list[Any]] = defaultdict(list)


@app.post("/query")
def query() -> dict[str, Any]:
    body = request.get_json()
    history = histories[body["client_name"]]
    history.append({"role": "user", "content": body["input"]})
    completion = client.chat.completions.create(model="stub", messages=history)
    reply = completion.choices[0].message.content
    history.append({"role": "assistant", "content": reply})
    return {"response": reply}
