#!/usr/bin/env bash
# Benchmarks of the kernels on a CPU with AVX-512, once as it is and once with AVX2 only, then docs/kernels.md:
#
#     benchmarks/cpu.sh [SECONDS]    at most 600 s in total by default; needs `pip install -e '.[bench]'`
#
# The machine must be idle. Cases of one thread, the shapes that matter most first; those that do not fit the time are
# left out, and reported. On a machine without AVX-512 only the second part is measured. Results of a kind of processor
# are replaced once it has been measured. Variables: PYTHON (default .venv/bin/python), MATCH (a regular expression,
# only cases in whose name it is found), RESULTS and PAGE (the folder and the page to write, by default
# benchmarks/results and docs/kernels.md).
set -eu
cd "$(dirname "$0")/.."
total=${1:-600} python=${PYTHON:-.venv/bin/python} results=${RESULTS:-benchmarks/results} page=${PAGE:-docs/kernels.md}
export OMP_NUM_THREADS=1 PYTHONUNBUFFERED=1 TORCHINDUCTOR_COMPILE_THREADS=2
# before results change, so that they do not make the commit dirty
COMMIT=${COMMIT:-$(git describe --always --dirty --abbrev=12 '--exclude=*' 2>/dev/null || echo unknown)}
export COMMIT
"$python" -c 'import faiss, ptwt, pywt, vector_quantize_pytorch' ||
    { echo "cpu.sh: the other libraries are missing: $python -m pip install -e '.[bench]'" >&2; exit 1; }
kinds="avx512 avx2"
[[ $("$python" -c 'import torch; print(torch.backends.cpu.get_cpu_capability())') == AVX512 ]] || kinds=avx2
share=$(((total - 20) / $(wc -w <<<"$kinds")))
# attention has 32 cases of one thread, most of them for GPUs
all='^(attention|convolution|nearest_code|ema_sums|ricker_cwt|quantizer_step|engine),.* 1 thread$'
all+='|^rope_attention, (CWT-MAE encoder, visible|long, narrow heads),.*float32.* 1 thread$'
part=$(mktemp -d)
trap 'rm -rf "$part"' EXIT
status=0
for kind in $kinds; do
    if [[ $kind == avx2 ]]; then export ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2 FAISS_SIMD_LEVEL=AVX2; fi
    # First calls compile, and no file is there that a stopped run left half done. A folder for each kind: its key
    # leaves out ATEN_CPU_CAPABILITY, and kernels for AVX-512 compute wrong results in a process with AVX2.
    export TORCHINDUCTOR_CACHE_DIR=$part/inductor-$kind
    begin=$SECONDS
    "$python" -m tstk kernels --build >/dev/null
    # a case takes up to half a minute, with the compilation of its peers
    timeout $((share - (SECONDS - begin))) "$python" -m benchmarks.run \
        attention convolution nearest_code rope_attention ricker_cwt quantizer_step engine --full \
        --device cpu --match "${MATCH:-$all}" --budget 0.3 --within $((share - 30)) \
        --results "$part/cpu-$kind" --run "cpu-$kind-$(date -u +%Y-%m-%d)" || status=$?
    if compgen -G "$part/cpu-$kind/*.json" >/dev/null; then
        mkdir -p "$results/cpu-$kind"
        rm -f "$results/cpu-$kind"/*.json
        cp "$part/cpu-$kind"/*.json "$results/cpu-$kind/"
    fi
done
folders=()
for name in cpu-avx512 cpu-avx2 gpu; do [[ ! -d $results/$name ]] || folders+=("$results/$name"); done
"$python" -m benchmarks.render "${folders[@]}" --out "$page"
[[ $status == 124 ]] || exit "$status" # of a case that took too long, or whose result is wrong
