#!/bin/sh
# Makes the situations of recipes/mini/situations.yaml on one GPU, task by task; each task is in the table when it ends.
#
#   sh scripts/situations.sh DATA WORK TABLE SECONDS [task ...]
#
# DATA holds dialogsum/ and instruct/; rows and runs go to WORK; TABLE is written after each task. It stops after SECONDS,
# and the same command goes on. Of a finished task the models that no other needs are removed: all fill 100 GiB.
set -eu
data=$1 work=$2 table=$3 end=$(($(date +%s) + $4))
shift 4
[ $# -gt 0 ] || set -- creak qasc gsm8k dialogsum code general
here=$(dirname "$0")/..
export TUTELAGE_DATA="$work" PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True OMP_NUM_THREADS=2
[ -d "$work/situations" ] || python "$here/scripts/situation_rows.py" "$data" "$work" > /dev/null
if command -v nvidia-cuda-mps-control > /dev/null; then nvidia-cuda-mps-control -d || true; fi
for task in "$@"; do
  left=$((end - $(date +%s)))
  [ "$left" -gt 20 ] || break
  study="$here/recipes/mini/situations/$task.yaml"
  status=0
  timeout -s INT -k 60 "$left" python -m tutelage study run "$study" --runs "$work/runs" --jobs "${JOBS:-8}" \
    --gpu-memory "${GPU_MEMORY:-120}" --retry > "$work/$task.log" 2>&1 || status=$?
  echo "$task: exit $status after $((left - end + $(date +%s))) s"
  tail -n 3 "$work/$task.log"
  python "$here/scripts/situations_table.py" "$study" "$work/runs" "$table"
  [ "$status" -eq 0 ] || continue
  for made in sft- sft_again- gkd_ spoiled- weaker-; do rm -rf "$work"/runs/"$made"*-*/model; done
done
