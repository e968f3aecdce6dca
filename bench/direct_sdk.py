"""For comparison: direct calls by the SDK, one after another. `python -m bench.direct_sdk BASE_URL CALLS`."""

import json
import statistics
import sys
import time

from openai import OpenAI

if __name__ == "__main__":
    client = OpenAI(api_key="none", base_url=sys.argv[1])
    times = []
    for n in range(int(sys.argv[2])):
        start = time.perf_counter()
        client.chat.completions.create(model="stub", messages=[{"role": "user", "content": f"question {n}"}])
        times.append(time.perf_counter() - start)
    print(json.dumps({"p50_ms": statistics.median(times) * 1000}))
