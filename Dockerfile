# tstk with the plugins of this repository, for CPUs:
#
#   docker build --build-arg TORCH_INDEX=URL --tag tstk .
#   docker run --rm --user "$(id -u):$(id -g)" --volume "$PWD:/work" tstk train --encoder bert --head cot --out runs/first
#
# TORCH_INDEX is the package index of torch's CPU builds, which pytorch.org names; without it, pip's own index is asked,
# whose Linux builds bring gigabytes of CUDA along.
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS wheels
COPY . /source
WORKDIR /source
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels . ./plugins/*/

FROM python:${PYTHON}-slim
ARG TORCH_INDEX=""
ARG EXTRAS=plot,tune
COPY constraints.txt /wheels/
# without what torch needs, which its index has in other versions; the next line installs that
RUN python -m pip install --no-cache-dir --no-deps --constraint /wheels/constraints.txt ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch
COPY --from=wheels /wheels/*.whl /wheels/
RUN python -m pip install --no-cache-dir --constraint /wheels/constraints.txt /wheels/*.whl \
        "tstk-core[$EXTRAS] @ file://$(echo /wheels/tstk_core-*.whl)" \
    && tstk doctor \
    && useradd --create-home tstk \
    && mkdir --mode 1777 /work /cache
ENV TSTK_CACHE=/cache
USER tstk
WORKDIR /work
ENTRYPOINT ["tstk"]
CMD ["--help"]
