#!/usr/bin/env bash
# Tests and benchmarks of the kernels on an NVIDIA GPU, without network, from a checkout:
#
#     benchmarks/gpu.sh smoke OUTDIR [SECONDS]    tests of the kernels, and one case of each operation; 150 s
#     benchmarks/gpu.sh mend OUTDIR [SECONDS]     the tests that failed in smoke or mend before, after a change; 90 s
#     benchmarks/gpu.sh bench OUTDIR [SECONDS]    the grid, the most important shapes first; 420 s
#
# A quarter of an hour holds smoke, two rounds of mend, and bench. Smoke names all failures at once; each operation is
# tested in its own process first, so that one broken kernel hides nothing about the others. Results are written case by
# case. Compiling takes most of the time of a first run: fill the cache beforehand.
#
# Takes at most SECONDS and stops at the first step that fails. Exit status: 0 passed, 1 failed, 2 a required step did
# not fit into SECONDS. OUTDIR then has summary.txt (one screen), log.txt, a results file per operation (for
# benchmarks.render) and, after bench, profile.txt.
#
# Variables: PYTHON, DEVICE, COMMIT, PROCESSES (default: one per core, up to 16), TESTS (what smoke runs),
# TRITON_CACHE_DIR (default build/triton; filled beforehand by `python -m benchmarks.compile --cache DIR --arch 90`).
set -u
cd "$(dirname "$0")/.."
mode=${1:-} out=${2:-}
case $mode in smoke) total=${3:-150} ;; mend) total=${3:-90} ;; bench) total=${3:-420} ;; *) out= ;; esac
[[ $out ]] || { sed -n '2,/^set/s/^# \{0,1\}//p' "benchmarks/gpu.sh" >&2; exit 64; }
out=$(realpath -m "$out") python=${PYTHON:-python3} device=${DEVICE:-cuda}
mkdir -p "$out"
rm -f "$out"/*.json "$out"/*.txt
exec > >(tee "$out/log.txt") 2>&1
unset TRITON_INTERPRET
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 TORCHINDUCTOR_COMPILE_THREADS=2
export TRITON_CACHE_DIR=${TRITON_CACHE_DIR:-$PWD/build/triton} COMMIT=${COMMIT:-}
run="gpu-$(date -u +%Y-%m-%dT%H:%M:%SZ)" processes=${PROCESSES:-$(n=$(nproc) && echo $((n < 16 ? n : 16)))} reserve=5 least=5 red=0 short=0

left() { echo $((total - reserve - SECONDS)); }

finish() { # write the summary and exit with the status
    local status=$((red ? 1 : short ? 2 : 0))
    {
        echo "$mode: $( ((red)) && echo RED || { ((short)) && echo "not finished" || echo passed; }), $SECONDS of $total s"
        cat "$out/steps.part" 2>/dev/null
        timeout "$reserve" "$python" -m benchmarks.summary "$out"
    } >"$out/summary.txt" 2>&1
    rm -f "$out"/*.part
    cat "$out/summary.txt"
    exit $status
}

step() { # step NAME SECONDS must|may COMMAND...: run for at most the time left; a `must` step cut off sets status 2
    local name=$1 share=$2 need=$3 from=$SECONDS verdict status
    shift 3
    ((share <= $(left))) || share=$(left)
    if ((share < least)); then
        verdict="skipped, no time left"
        [[ $need == may ]] || short=1
    else
        echo "== $name, at most $share s: $*"
        timeout --kill-after=2 "$share" "$@"
        status=$?
        case $status in
            0) verdict=passed ;;
            124 | 137) verdict="cut off" && [[ $need == may ]] || short=1 ;;
            *) verdict="RED, status $status" red=1 ;;
        esac
    fi
    printf '%-28s %-24s %4d s, at most %d\n' "$name" "$verdict" $((SECONDS - from)) $((share > 0 ? share : 0)) >>"$out/steps.part"
    ((red == 0)) || finish
}

gpu_tests=$(echo tests/kernels/test_*_triton.py tests/kernels/test_{self_test,dispatch,refusals}.py)
grid=(rope_attention nearest_code quantizer_step ricker_cwt)
cases=("$python" -m benchmarks.run "${grid[@]}" --device "$device" --stop)
nvidia-smi 2>/dev/null
timeout 30 "$python" -m benchmarks.compile --relocate "$TRITON_CACHE_DIR"

if [[ $mode != bench ]]; then
    step "self-tests" $((total / 3)) may "$python" -m benchmarks.self_tests "$device"
    workers=$("$python" -c 'import xdist; print("-n'$processes'")' 2>/dev/null)
    failed=$([[ $mode == mend ]] && echo "--last-failed")
    step "tests of the kernels" $((total * 2 / 3)) must "$python" -m pytest \
        ${TESTS:-$gpu_tests --confcutdir=tests/kernels} \
        --maxfail=25 -q --tb=short -o cache_dir="$PWD/build/pytest-gpu" $failed --durations=5 $workers
    step "one case of each operation" $((total * 2 / 5)) must "${cases[@]}" --first --ours --budget 0.2 --results "$out" --run "$run"
else
    step "check ours" $((total / 7)) must "${cases[@]}" --ours --check-only --processes $processes
    step "check all, fill caches" $((total / 5)) may "${cases[@]}" --check-only --processes $processes
    last=$((total / 12)) share=$(($(left) - total / 12))
    step "the grid" $share may "${cases[@]}" --budget 0.3 --results "$out" --run "$run" --within $((share - 15))
    step "profile" $last may "$python" -m benchmarks.profiles --device "$device" --out "$out/profile.txt"
fi
finish
