# The rotator's image, for any builder (BuildKit, buildah, kaniko), from a checkout:
#
#   docker build --tag rotator .
#
# The Python packages are pinned by hash (requirements/). The base is named once, by its full tag; a release names it
# with the digest that its builder read from the registry: --build-arg BASE=...@sha256:...
# The same sources on the same base, built with the same time stamp (SOURCE_DATE_EPOCH, buildah's --timestamp), make the
# same image.
ARG BASE=docker.io/library/python:3.12-slim-bookworm

FROM ${BASE} AS build
WORKDIR /src
ENV PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
# An environment of its own, with no pip in it, and no bytecode, which bears the time of its making.
RUN ["python3", "-m", "venv", "--without-pip", "/opt/rotator"]
COPY requirements/run.txt requirements/build.txt requirements/
RUN ["python3", "-m", "pip", "--python", "/opt/rotator/bin/python3", "install", "--no-compile", \
     "--require-hashes", "--only-binary=:all:", "--requirement", "requirements/run.txt"]
RUN ["python3", "-m", "pip", "install", "--require-hashes", "--only-binary=:all:", \
     "--requirement", "requirements/build.txt"]
COPY pyproject.toml LICENSE README.md ./
COPY builder builder
COPY completions completions
COPY docs/runbook.md docs/runbook.md
COPY man man
COPY rotator rotator
RUN python3 -m pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
    && python3 -m pip --python /opt/rotator/bin/python3 install --no-compile --no-deps --no-index /wheels/*.whl

FROM ${BASE}
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="rotator" \
      org.opencontainers.image.description="Rotates ECGrid API keys into HashiCorp Vault" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
# Nothing can be installed here any more.
RUN rm -rf /usr/local/lib/python3.*/site-packages/* /usr/local/lib/python3.*/ensurepip /usr/local/bin/pip*
COPY --from=build /opt/rotator /opt/rotator
# The file system may be read-only: nothing is written, not even bytecode.
ENV PATH=/opt/rotator/bin:/usr/local/bin:/usr/bin:/bin \
    LANG=C.UTF-8 \
    PYTHONDONTWRITEBYTECODE=1 \
    ROTATOR_POLICIES=/etc/rotator/policies
WORKDIR /etc/rotator
# By number, so that Kubernetes can see that it is not root.
USER 65532:65532
EXPOSE 9464
# Is the daemon alive? Without a shell, and without a token. Whoever runs single commands may leave it out (--no-healthcheck).
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s --retries=3 \
  CMD ["/opt/rotator/bin/python3", "-c", "from http.client import HTTPConnection as C; c = C('127.0.0.1', 9464, timeout=4); c.request('GET', '/healthz'); raise SystemExit(c.getresponse().status != 200)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["/opt/rotator/bin/rotator"]
CMD ["run"]
