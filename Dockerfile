# Four images: docker build --target service|service-gpu|export|training -t drd-inspect/TARGET .
# All run as a user without rights and write to /tmp only: give that a tmpfs and the root read-only.

ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm
ARG CUDA_IMAGE=nvidia/cuda:13.0.1-cudnn-runtime-ubuntu24.04

# --- what the images stand on ---------------------------------------------------------------------------

FROM ${PYTHON_IMAGE} AS cpu
RUN useradd --no-log-init --system --uid 10001 --user-group --no-create-home --home-dir /tmp drd
ENV PATH=/opt/drd/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp

FROM ${CUDA_IMAGE} AS cuda
# hadolint ignore=DL3008  # Ubuntu keeps no older versions, so a pinned one would soon be gone
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3 python3-venv \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --no-log-init --system --uid 10001 --user-group --no-create-home --home-dir /tmp drd
ENV PATH=/opt/drd/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp

# --- environments in /opt/drd: no pip in them; packages first, since they change less often than the code -

FROM cpu AS cpu-pip
RUN python3 -m venv /pip && python3 -m venv --without-pip /opt/drd
ENV PIP="/pip/bin/pip --disable-pip-version-check --python /opt/drd install --no-cache-dir"

FROM cuda AS cuda-pip
RUN python3 -m venv /pip && python3 -m venv --without-pip /opt/drd
ENV PIP="/pip/bin/pip --disable-pip-version-check --python /opt/drd install --no-cache-dir"
# TENSORRT=1 adds TensorRT 10, the extra `tensorrt`: it is not in the pinned files, its libraries come from NVIDIA.
# Read NVIDIA's licence before you pass such an image on.
ARG TENSORRT=""

FROM cpu-pip AS wheel
WORKDIR /source
COPY LICENSE README.md pyproject.toml ./
COPY training training
COPY export export
COPY service service
RUN /pip/bin/pip --disable-pip-version-check wheel --no-cache-dir --no-deps --wheel-dir /wheel .

FROM cpu-pip AS service-environment
COPY requirements/service.txt /requirements.txt
RUN $PIP --require-hashes -r /requirements.txt
COPY --from=wheel /wheel /wheel
RUN $PIP --no-deps /wheel/*.whl

FROM cuda-pip AS service-gpu-environment
COPY requirements/service-gpu.txt /requirements.txt
# The package of TensorRT for RTX links its libraries when it is first imported: as the user of the image it could not.
RUN $PIP --require-hashes -r /requirements.txt && /opt/drd/bin/python -c 'import onnxruntime_ep_nv_tensorrt_rtx'
COPY --from=wheel /wheel /wheel
RUN $PIP --no-deps /wheel/*.whl && if [ -n "$TENSORRT" ]; then $PIP "drd-inspect[tensorrt]"; fi

FROM cuda-pip AS export-environment
COPY requirements/export-gpu.txt /requirements.txt
RUN $PIP --require-hashes -r /requirements.txt && /opt/drd/bin/python -c 'import onnxruntime_ep_nv_tensorrt_rtx'
COPY --from=wheel /wheel /wheel
RUN $PIP --no-deps /wheel/*.whl && if [ -n "$TENSORRT" ]; then $PIP "drd-inspect[tensorrt]"; fi

FROM cpu-pip AS training-environment
COPY requirements/training.txt /requirements.txt
RUN $PIP --require-hashes -r /requirements.txt
COPY --from=wheel /wheel /wheel
RUN $PIP --no-deps /wheel/*.whl

# --- the images -----------------------------------------------------------------------------------------

FROM cuda AS export
LABEL org.opencontainers.image.title="drd-export" \
      org.opencontainers.image.description="Turns a checkpoint into a bundle that can be served; TensorRT plans on the GPU that will serve" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=export-environment /opt/drd /opt/drd
USER 10001:10001
ENTRYPOINT ["drd-export"]

FROM cpu AS training
LABEL org.opencontainers.image.title="drd-train" \
      org.opencontainers.image.description="Learns from pictures of good parts; uses a GPU where there is one" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=training-environment /opt/drd /opt/drd
USER 10001:10001
ENTRYPOINT ["drd-train"]

FROM cuda AS service-gpu
LABEL org.opencontainers.image.title="drd-serve" \
      org.opencontainers.image.description="Inspects pictures of parts over REST and gRPC, on an NVIDIA GPU" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=service-gpu-environment /opt/drd /opt/drd
ENV DRD_MODELS=/models DRD_HTTP=0.0.0.0:8080 DRD_GRPC=0.0.0.0:8081 DRD_ADMIN=0.0.0.0:9090
EXPOSE 8080 8081 9090
USER 10001:10001
HEALTHCHECK --interval=10s --timeout=5s --start-period=10m \
    CMD ["python3", "-c", "from urllib.request import ProxyHandler, build_opener; build_opener(ProxyHandler({})).open('http://127.0.0.1:9090/health/ready', timeout=4)"]
ENTRYPOINT ["drd-serve"]

FROM cpu AS service
LABEL org.opencontainers.image.title="drd-serve" \
      org.opencontainers.image.description="Inspects pictures of parts over REST and gRPC" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=service-environment /opt/drd /opt/drd
ENV DRD_MODELS=/models DRD_HTTP=0.0.0.0:8080 DRD_GRPC=0.0.0.0:8081 DRD_ADMIN=0.0.0.0:9090
EXPOSE 8080 8081 9090
USER 10001:10001
HEALTHCHECK --interval=10s --timeout=5s --start-period=2m \
    CMD ["python3", "-c", "from urllib.request import ProxyHandler, build_opener; build_opener(ProxyHandler({})).open('http://127.0.0.1:9090/health/ready', timeout=4)"]
ENTRYPOINT ["drd-serve"]
