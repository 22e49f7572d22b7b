# A node of a Ray cluster that runs trials, and on a machine with a GPU an agent that measures there by TensorRT.
# From the repository's root:
#     docker build -f docker/worker.Dockerfile -t prunefront/worker:0.1.0 .
#
# The base has CUDA, TensorRT with its Python package, and Python 3.12.3, as service.Dockerfile has.

FROM nvcr.io/nvidia/tensorrt:25.08-py3 AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3.12-venv=3.12.3-* \
    && rm -rf /var/lib/apt/lists/*
# The base's packages stay in sight, for TensorRT.
RUN python3.12 -m venv --system-site-packages /opt/prunefront
ARG PIP_INDEX_URL
RUN /opt/prunefront/bin/pip install --no-cache-dir torch==2.13.0
WORKDIR /src
COPY . .
RUN /opt/prunefront/bin/pip install --no-cache-dir --constraint requirements.lock ".[gpu]"

FROM nvcr.io/nvidia/tensorrt:25.08-py3
RUN useradd --uid 10001 --create-home prunefront \
    && ln -s /opt/prunefront/bin/prunefront /opt/prunefront/bin/ray /usr/local/bin/
COPY --from=build /opt/prunefront /opt/prunefront
USER 10001
WORKDIR /home/prunefront
# It may take a minute until the head is there, and Ray gives up before; whoever starts containers tries again.
HEALTHCHECK --interval=60s --start-period=60s CMD ["sh", "-c", "ray health-check --address \"$PRUNEFRONT_RAY_ADDRESS\""]
ENTRYPOINT ["sh", "-c", "exec ray start --address=\"$PRUNEFRONT_RAY_ADDRESS\" --block \"$@\"", "worker"]
