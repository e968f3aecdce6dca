# docs/deploying.md tells how to build and run it.

# The tag follows the patch releases of Python 3.11 and of Debian. For builds that never change, add the digest of the
# image that was tried: python:3.11-slim@sha256:...
FROM python:3.11-slim AS build
RUN python -m venv /venv
COPY requirements.txt /app/
RUN /venv/bin/pip install --no-cache-dir --requirement /app/requirements.txt
COPY run.py gunicorn.conf.py openapi.json /app/
COPY server /app/server
# The user below may not write here, so that each start would compile the server anew.
RUN /venv/bin/python -m compileall -q --invalidation-mode unchecked-hash /app

FROM python:3.11-slim
COPY --from=build /venv /venv
COPY --from=build /app /app
RUN install --directory --mode 700 --owner 10001 --group 10001 /data
ENV PATH=/venv/bin:$PATH \
    HOST=0.0.0.0 \
    PORT=10000 \
    STORE_URL=sqlite:////data/chatbot.db
WORKDIR /app
USER 10001:10001
VOLUME /data
EXPOSE 10000
# http.client, since urllib would ask a proxy that HTTP_PROXY names. slim has no curl.
HEALTHCHECK --interval=10s --timeout=6s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import http.client, os, sys; server = http.client.HTTPConnection('127.0.0.1', int(os.environ['PORT']), timeout=5); server.request('GET', '/readyz'); sys.exit(server.getresponse().status != 200)"]
CMD ["python", "run.py"]
