# Container image of the bridge: small, non-root, serving Streamable HTTP on port 8642.
#
#   docker build -t asyncfc-mcp .
#   docker run -p 8642:8642 -e ASYNCFC_TOKEN -v "$PWD/mcp.json:/etc/asyncfc/mcp.json:ro" asyncfc-mcp
#   docker build --build-arg EXTRAS=fast,telemetry,postgres -t asyncfc-mcp .    # with the PostgreSQL engine
#   docker build --build-arg EXTRAS=fast -t asyncfc-mcp .    # 13 MB smaller, without telemetry
#   docker build --build-arg VERSION=0.1.0 --build-arg REVISION=$(git rev-parse HEAD) -t asyncfc-mcp .    # a release
#
# Git's folder is not in the context, so that the version has to be given; without it, it is 0.0.0.
#
# Wrapped servers that are commands (npx, uvx, …) must be installed in the image: build one from this image.

FROM python:3.11.13-slim-bookworm AS build
ARG EXTRAS=fast,telemetry
ARG VERSION=
WORKDIR /src
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 SETUPTOOLS_SCM_PRETEND_VERSION_FOR_ASYNCFC_MCP=${VERSION}
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY asyncfc_mcp ./asyncfc_mcp
COPY examples ./examples
RUN python -m venv /opt/asyncfc \
 && /opt/asyncfc/bin/pip install --constraint constraints.txt ".[${EXTRAS}]"

FROM python:3.11.13-slim-bookworm
ARG VERSION=
ARG REVISION=
ARG CREATED=
LABEL org.opencontainers.image.title="asyncfc-mcp" \
      org.opencontainers.image.description="An MCP bridge that answers every tool call at once with a future." \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.authors="The asyncfc-mcp maintainers" \
      org.opencontainers.image.url="https://github.com/OWNER/asyncfc-mcp" \
      org.opencontainers.image.source="https://github.com/OWNER/asyncfc-mcp" \
      org.opencontainers.image.documentation="https://OWNER.github.io/asyncfc-mcp/" \
      org.opencontainers.image.base.name="docker.io/library/python:3.11.13-slim-bookworm" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
RUN groupadd --system --gid 10001 asyncfc \
 && useradd --system --uid 10001 --gid asyncfc --home-dir /var/lib/asyncfc --create-home --shell /usr/sbin/nologin asyncfc \
 && mkdir -p /etc/asyncfc
COPY --from=build /opt/asyncfc /opt/asyncfc
ENV PATH=/opt/asyncfc/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    ASYNCFC_CACHE_DIR=/var/lib/asyncfc/cache \
    ASYNCFC_LOG_DIR=/var/lib/asyncfc/log
USER asyncfc
WORKDIR /var/lib/asyncfc
EXPOSE 8642
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=3s --start-period=10s --retries=3 \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8642/healthz', timeout=2).read()"]
ENTRYPOINT ["asyncfc-mcp"]
CMD ["serve", "--config", "/etc/asyncfc/mcp.json", "--transport", "http", "--host", "0.0.0.0", "--port", "8642", "--auth-token-env", "ASYNCFC_TOKEN"]
