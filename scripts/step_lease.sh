#!/bin/sh
# Measures one H200's rows of docs/performance.md: steps, parts of a step, sampling, the loss, curves, DialogSum.
#
#   sh scripts/step_lease.sh OUT [part ...]
#
# Each part has a time limit and leaves OUT/<part>.json or a report, and OUT/<part>.log; one that ends late or fails does
# not stop the next. MICRO_BATCH: tokens per micro-batch where a part names none. TUTELAGE_DATA holds dialogsum/ and
# instruct/ (for the parts of that name). Parts, in this order:
#   eager off float8 on on8 seventy lora8 float32 sampling loss precision curve trl dialogsum
set -u
mkdir -p "$1"
out=$(cd "$1" && pwd)
shift
[ $# -gt 0 ] || set -- eager off float8 on on8 seventy lora8 float32 sampling loss precision curve trl dialogsum
cd "$(dirname "$0")/.." || exit 1
export OMP_NUM_THREADS=8 PYTHONFAULTHANDLER=1 PYTHONPATH="src${PYTHONPATH:+:$PYTHONPATH}"
export TORCHINDUCTOR_CACHE_DIR="$out/compiled"

bounded() { # SECONDS NAME COMMAND …
  limit=$1 name=$2
  shift 2
  began=$(date +%s) status=0
  # A step that is ended writes where it was; a recipe stops as it does on request.
  timeout -s "${signal:-ABRT}" -k 20 "$limit" "$@" > "$out/$name.log" 2>&1 || status=$?
  echo "$name: exit $status after $(($(date +%s) - began)) s"
}

step() { # SECONDS NAME OPTIONS … of bench.step.paper
  limit=$1 name=$2
  shift 2
  bounded "$limit" "$name" python -m bench.step.paper --impl tutelage --json "$out/$name.json" --warmup 2 --steps 3 \
    --profile "$out/$name" --micro-batch "${MICRO_BATCH:-6144}" "$@"
}

recipe() { # SECONDS NAME OVERRIDES … of recipes/dialogsum.yaml
  limit=$1 name=$2
  shift 2
  signal=TERM bounded "$limit" "$name" env OMP_NUM_THREADS=2 PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True \
    python -m tutelage run recipes/dialogsum.yaml --jobs "${JOBS:-7}" --no-text \
    --runs "$out/runs" --report "$out/$name" "name=$name" 'seeds=[0,1,2]' "$@"
}

for part in "$@"; do
  case $part in
    eager) step 240 off_eager --case off-policy ;;
    off) step 300 off_compiled --case off-policy --compile on ;;
    float8) step 300 off_float8 --case off-policy --compile on --teacher-precision float8 ;;
    on) step 300 on_compiled --case on-policy --compile on ;;
    on8) step 300 on_float8 --case on-policy --compile on --teacher-precision float8 ;;
    seventy)
      step 420 seventy_3b --student 3b --teacher 70b --teacher-precision float8 --compile on --checkpointing \
        --micro-batch 4096 --slots 32 --case off-policy mixed
      step 420 seventy_1b --student 1b --teacher 70b --teacher-precision float8 --compile on --slots 64 \
        --case off-policy mixed
      ;;
    lora8)
      for base in nf4 bfloat16; do
        step 300 "lora_$base" --student 8b --lora 16 --student-base "$base" --teacher-precision "$base" \
          --checkpointing --micro-batch 4096 --batch 16 --case off-policy --compile on
      done
      # All weights of an 8B student, with their masters and moments, are more than a card holds.
      step 300 lora_3b --student 3b --lora 16 --case off-policy --compile on
      step 300 full_3b --student 3b --case off-policy --compile on
      ;;
    float32) step 300 off_float32 --case off-policy --compute float32 --batch 32 ;;
    sampling)
      bounded 300 sampling python -m bench.sampling --device cuda --impl tutelage vllm --repeats 5 \
        --json "$out/sampling.json"
      ;;
    loss)
      bounded 240 loss python -m bench.loss --device cuda --impl tutelage tutelage-statistics --json "$out/loss.json" \
        --profile "$out/loss"
      ;;
    precision) bounded 240 precision python -m bench.teacher_precision --json "$out/precision.json" ;;
    curve)
      bounded 300 curve python -m bench.curve --device cuda --json "$out/curve.json" --figure "$out/curve.png"
      ;;
    trl)
      bounded 600 trl python -m bench.step.paper --impl trl-distillation-vllm --case on-policy --trl-batch 32 \
        --trl-setups bfloat16/off --steps 2 --json "$out/trl.json"
      ;;
    dialogsum)
      recipe 900 dialogsum
      recipe 900 dialogsum_float8 teacher.precision=float8
      for healed in "$out"/runs/heal-*/model; do # the first recipe's; its adapters begin there
        recipe 900 dialogsum_lora "student={path: $healed, lora: {r: 16}}" \
          'search.grid={learning_rate: [1.0e-4, 3.0e-4, 6.0e-4, 1.0e-3], epochs: [5, 10]}'
      done
      ;;
    *) echo "$part: no such part; see the head of $0" ;;
  esac
done
