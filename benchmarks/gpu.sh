#!/usr/bin/env bash
# All that wants an NVIDIA GPU, offline and from the checkout alone: benchmarks/gpu.sh OUTDIR [SECONDS]
#
# Tests of the kernels, tuning tables, the grid, a profile; in that order, each within its share of SECONDS (540 unless
# given), and each on disk as it comes. OUTDIR then has a results file per operation (for benchmarks.render),
# tuning.json (for benchmarks.tune --adopt), profile.txt and log.txt. PYTHON, DEVICE and COMMIT may be set.
set -u
cd "$(dirname "$0")/.."
out=$(realpath -m "$1") total=${2:-540} python=${PYTHON:-python3} device=${DEVICE:-cuda}
mkdir -p "$out"
trap 'rm -f "$out"/*.part' EXIT
exec > >(tee "$out/log.txt") 2>&1
unset TRITON_INTERPRET
export PYTHONPATH="$PWD" PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
run="gpu-$(date -u +%Y-%m-%dT%H:%M:%SZ)" processes=8 begin=$SECONDS

step() { # step SHARE COMMAND...: at most SHARE seconds, and no longer than what is left
    local share=$1 left=$((total - SECONDS + begin)); shift
    ((share < left)) || share=$left
    ((share > 5)) || { echo "== no time left for: $*"; return; }
    echo "== $* (at most $share s, $left s left)"
    timeout --kill-after=5 "$share" "$@" || echo "== ended with $?: $*"
}

bench() { # bench SHARE ARGUMENT...: cases; none is begun that would not end in time
    local share=$1 left=$((total - SECONDS + begin)); shift
    ((share < left)) || share=$left
    step "$share" "$python" -m benchmarks.run --device "$device" --results "$out" --run "$run" --within $((share - 20)) "$@"
}

grid=(rope_attention nearest_code quantizer_step ricker_cwt)
nvidia-smi || true
"$python" -c 'import json; from benchmarks.results import environment; print(json.dumps(environment()))'

# Tests and compilation use the processor; what is compiled here is found in the caches when it comes to timing.
pids=()
for ((i = 0; i < processes; i++)); do
    TORCHINDUCTOR_COMPILE_THREADS=2 timeout --kill-after=5 150 "$python" -m benchmarks.run "${grid[@]}" \
        --device "$device" --gates --part "$i" --parts $processes >"$out/gates.$i.part" 2>&1 & pids+=($!)
done
workers=$("$python" -c 'import xdist; print("-n4")' 2>/dev/null)
step 150 "$python" -m pytest tests/kernels -q -p no:cacheprovider --durations=10 $workers
wait "${pids[@]}"
cat "$out"/gates.*.part
rm -f "$out"/gates.*.part

step 90 "$python" -m benchmarks.tune --out "$out/tuning.json" --within 70
[[ ! -e $out/tuning.json ]] || step 20 "$python" -m benchmarks.tune --adopt "$out/tuning.json"
bench 150 rope_attention --budget 0.4
bench 70 nearest_code --budget 0.3
bench 40 quantizer_step --budget 0.4
bench 60 ricker_cwt --budget 0.4
step 40 "$python" -m benchmarks.profiles --device "$device" --out "$out/profile.txt"
bench 600 "${grid[@]}" --full --budget 0.3
echo "== done after $((SECONDS - begin)) s"
