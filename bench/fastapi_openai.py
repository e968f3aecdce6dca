"""For comparison: a minimal conversation server with FastAPI, as one would write it in an afternoon."""

import os
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from openai import AsyncOpenAI, DefaultAsyncHttpxClient
from pydantic import BaseModel

app = FastAPI()
client = AsyncOpenAI(api_key="none", base_url=os.environ["OPENAI_BASE_URL"], http_client=DefaultAsyncHttpxClient())
histories: dict[str, list[Any]] = defaultdict(list)


class Question(BaseModel):
    input: str
    client_name: str


@app.post("/query")
async def query(question: Question, request: Request) -> Any:
    history = histories[question.client_name]
    history.append({"role": "user", "content": question.input})
    if request.headers.get("accept") == "text/event-stream":
        return StreamingResponse(stream_reply(history), media_type="text/event-stream")
    completion = await client.chat.completions.create(model="stub", messages=history)
    reply = completion.choices[0].message.content
    history.append({"role": "assistant", "content": reply})
    return {"response": reply}


async def stream_reply(history: list[Any]) -> AsyncIterator[str]:
    parts: list[str] = []
    async for chunk in await client.chat.completions.create(model="stub", messages=history, stream=True):
        if chunk.choices and chunk.choices[0].delta.content:
            parts.append(chunk.choices[0].delta.content)
            yield f"data: {parts[-1]}\n\n"
    history.append({"role": "assistant", "content": "".join(parts)})
    yield "data: [DONE]\n\n"
