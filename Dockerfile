# The image of the controller and the agent; one program, two commands.
#
#   docker build -t registry-mirror-operator .
#
# Both stages start from the same base, so that the virtual environment finds the Python it was made with. To pin it,
# or to use a copy of yours: --build-arg BASE=<image>@sha256:<digest>. Any base with glibc, Python 3.13 and its venv
# module will do.
ARG BASE=python:3.13-slim-bookworm

FROM ${BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
RUN python3 -m venv /opt/registry-mirror
WORKDIR /src
# Dependencies before the source: this layer changes only with the lock. Wheels only: no compiler is needed, and no
# setup code of a dependency runs.
COPY requirements.lock ./
RUN /opt/registry-mirror/bin/pip install --require-hashes --only-binary=:all: --requirement requirements.lock
# What builds the package is locked too, and stays behind.
COPY requirements-build.lock ./
RUN python3 -m venv /opt/build \
    && /opt/build/bin/pip install --require-hashes --only-binary=:all: --requirement requirements-build.lock
COPY pyproject.toml README.md LICENSE ./
COPY operator ./operator
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /dist . \
    && /opt/registry-mirror/bin/pip install --no-deps --no-index /dist/*.whl \
    # Compiled here, as the containers run with a read-only root file system.
    && /opt/registry-mirror/bin/python -m compileall -q /opt/registry-mirror/lib \
    # Nothing is installed at run time.
    && /opt/registry-mirror/bin/pip uninstall --yes pip

FROM ${BASE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="registry-mirror-operator" \
      org.opencontainers.image.description="Registry mirrors on Kubernetes nodes, live and without restarts" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /opt/registry-mirror /opt/registry-mirror
ENV PATH=/opt/registry-mirror/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
# Not root unless the Pod says so: the agent's does, as the files that it writes belong to root.
USER 65532:65532
ENTRYPOINT ["registry-mirror"]
