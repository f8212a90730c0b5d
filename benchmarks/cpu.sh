#!/usr/bin/env bash
# Benchmarks of the kernels on a CPU with AVX-512, once as it is and once with AVX2 only, then docs/kernels.md:
#
#     benchmarks/cpu.sh [SECONDS]    at most 700 s in total by default; needs `pip install -e '.[bench]'`
#
# The machine must be idle. Cases of one thread, the shapes that matter most first; what does not fit the time is left
# out. On a machine without AVX-512 only the second part is measured. Variables: PYTHON (default .venv/bin/python).
set -eu
cd "$(dirname "$0")/.."
total=${1:-700} python=${PYTHON:-.venv/bin/python} results=benchmarks/results
export OMP_NUM_THREADS=1 PYTHONUNBUFFERED=1 TORCHINDUCTOR_COMPILE_THREADS=2
kinds="avx512 avx2"
[[ $("$python" -c 'import torch; print(torch.backends.cpu.get_cpu_capability())') == AVX512 ]] || kinds=avx2
share=$(((total - 40) / $(wc -w <<<"$kinds")))
for kind in $kinds; do
    if [[ $kind == avx2 ]]; then export ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2 FAISS_SIMD_LEVEL=AVX2; fi
    rm -f "$results/cpu-$kind"/*.json
    "$python" -m tstk kernels --build
    # a case takes up to half a minute, with the compilation of its peers
    timeout "$share" "$python" -m benchmarks.run nearest_code ricker_cwt rope_attention quantizer_step engine --full \
        --device cpu --match "1 thread" --budget 1 --within $((share - 30)) \
        --results "$results/cpu-$kind" --run "cpu-$kind-$(date -u +%Y-%m-%d)" || [[ $? == 124 ]]
done
"$python" -m benchmarks.render
