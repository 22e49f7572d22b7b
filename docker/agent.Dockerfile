# The agent for a Jetson with JetPack 6 (L4T 36). On the board, or for linux/arm64, from the repository's root:
#     docker build -f docker/agent.Dockerfile -t prunefront/agent:0.1.0 .
#
# The base is NVIDIA's for the integrated GPU of L4T: the images l4t-* have TensorRT for Python 3.10 alone, and
# prunefront needs 3.11. For another JetPack name its image by --build-arg BASE.

ARG BASE=nvcr.io/nvidia/tensorrt:24.12-py3-igpu

FROM ${BASE} AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3.12-venv=3.12.3-* \
    && rm -rf /var/lib/apt/lists/*
RUN python3.12 -m venv --system-site-packages /opt/prunefront
ARG PIP_INDEX_URL
WORKDIR /src
COPY . .
# The agent needs no torch: a few packages, and ours without what it depends on.
RUN /opt/prunefront/bin/pip install --no-cache-dir --upgrade "pip>=25.1" \
    && /opt/prunefront/bin/pip install --no-cache-dir --constraint requirements.lock --group agent "cuda-core[cu12]==1.0.*" \
    && /opt/prunefront/bin/pip install --no-cache-dir --no-deps .

FROM ${BASE}
# A board lets the group `video` use its GPU.
RUN useradd --uid 10001 --create-home --groups video prunefront \
    && install --directory --owner=prunefront /home/prunefront/.cache /home/prunefront/.cache/prunefront \
    && ln -s /opt/prunefront/bin/prunefront /usr/local/bin/
COPY --from=build /opt/prunefront /opt/prunefront
USER 10001
WORKDIR /home/prunefront
# An agent listens to nobody: it is well as long as it runs.
HEALTHCHECK NONE
ENTRYPOINT ["prunefront", "agent"]
