# The service, and the head of a Ray cluster. From the repository's root:
#     docker build -f docker/service.Dockerfile -t prunefront/service:0.1.0 .
#
# Ray joins nodes of the very same Python only, to the last number: this one is that of worker.Dockerfile, too.

FROM ubuntu:24.04 AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3.12-venv=3.12.3-* \
    && rm -rf /var/lib/apt/lists/*
RUN python3.12 -m venv /opt/prunefront
# Where pip looks is not ours to say: give --build-arg PIP_INDEX_URL, such as an index of torch without CUDA.
ARG PIP_INDEX_URL
RUN /opt/prunefront/bin/pip install --no-cache-dir torch==2.13.0
WORKDIR /src
COPY . .
RUN /opt/prunefront/bin/pip install --no-cache-dir --constraint requirements.lock ".[postgres]"

FROM ubuntu:24.04
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3.12=3.12.3-* \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --create-home prunefront \
    && install --directory --owner=prunefront /var/lib/prunefront \
    && ln -s /opt/prunefront/bin/prunefront /opt/prunefront/bin/ray /usr/local/bin/
COPY --from=build /opt/prunefront /opt/prunefront
COPY docker/serve /usr/local/bin/serve
ENV PRUNEFRONT_RUNS=/var/lib/prunefront
USER 10001
WORKDIR /var/lib/prunefront
EXPOSE 8321
HEALTHCHECK --start-period=60s CMD ["python3.12", "-c", "import urllib.request as web; web.urlopen('http://127.0.0.1:8321/healthz', timeout=5)"]
ENTRYPOINT ["serve"]
