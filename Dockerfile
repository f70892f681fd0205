# The image of the controller, the agent and the command line: one program. docs/image.md has the commands.
#
# Bases are pinned by the digests of their multi-platform indexes. Others, such as copies of yours, are given as
# --build-arg BASE=… and --build-arg BUILD_BASE=…: a base needs glibc and /usr/bin/python3.13, no shell; the one that is
# built on needs a shell and Python 3.13 with its module venv.
ARG BUILD_BASE=docker.io/library/python:3.13-slim-trixie@sha256:9d2e5553305c7c7b0097999bb17187c69b921ccd6bc9d40e4bb5ebe652c00285
ARG BASE=gcr.io/distroless/python3-debian13:nonroot@sha256:83aa8d4f74a4d7f7cf2d472054139bef71a927b76c680c0f2e1021d6b1d6d732

FROM ${BASE} AS base

# Runs on the machine that builds, whatever the image is for: wheels are unpacked, nothing is compiled but bytecode.
FROM --platform=${BUILDPLATFORM} ${BUILD_BASE} AS build
ARG TARGETARCH
WORKDIR /src
COPY build/image/install.py ./
COPY --from=base /usr/lib/python3.13 /base/python3.13
RUN python3 install.py standard-library /base/python3.13
COPY requirements.lock requirements-build.lock ./
# Dependencies before the source: this layer changes only with the locks.
RUN python3 install.py dependencies "${TARGETARCH}"
COPY pyproject.toml README.md LICENSE ./
COPY operator operator
RUN python3 install.py program

FROM base
ARG BASE
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="registry-mirror-operator" \
      org.opencontainers.image.description="Registry mirrors on Kubernetes nodes, live and without restarts" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="${BASE}" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /opt/bytecode /
COPY --from=build /opt/registry-mirror /opt/registry-mirror
ENV PATH=/opt/registry-mirror/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
WORKDIR /
# Not root unless the Pod says so: the agent's does, as the files that it writes belong to root.
USER 65532:65532
ENTRYPOINT ["registry-mirror"]
