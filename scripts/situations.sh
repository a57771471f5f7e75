#!/bin/sh
# Makes the situations of recipes/mini/situations.yaml on one GPU or several, task by task; each task is in the table when
# it ends.
#
#   sh scripts/situations.sh DATA WORK TABLE SECONDS [task ...]
#
# DATA holds dialogsum/ and instruct/; rows and runs go to WORK; TABLE is written after each task. It stops after SECONDS,
# and the same command goes on. Each GPU has its own jobs: the first takes the tasks from the front, the second from the
# back, and where they meet they share a task's runs by their locks. Models of the arms that no run of their task needs any more
# are removed: all fill 110 GiB. JOBS and GPU_MEMORY (GiB) are per GPU; GPUS names some of them ("0 1"; default: all).
set -eu
data=$1 work=$2 table=$3 end=$(($(date +%s) + $4))
shift 4
[ $# -gt 0 ] || set -- creak qasc gsm8k dialogsum code general
here=$(dirname "$0")/..
export TUTELAGE_DATA="$work" PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True OMP_NUM_THREADS=2
[ -d "$work/situations" ] || python "$here/scripts/situation_rows.py" "$data" "$work" > /dev/null
if command -v nvidia-cuda-mps-control > /dev/null; then nvidia-cuda-mps-control -d || true; fi

# do_tasks GPU task ...: GPU is a number, or empty where there is none
do_tasks() {
  gpu=$1
  shift
  [ -z "$gpu" ] || export CUDA_VISIBLE_DEVICES="$gpu"
  for task in "$@"; do
    left=$((end - $(date +%s)))
    [ "$left" -gt 20 ] || break
    study="$here/recipes/mini/situations/$task.yaml" log="$work/$task${gpu:+-gpu$gpu}.log"
    status=0
    timeout -s INT -k 60 "$left" python -m tutelage study run "$study" --runs "$work/runs" --jobs "${JOBS:-8}" \
      --gpu-memory "${GPU_MEMORY:-120}" --retry > "$log" 2>&1 || status=$?
    echo "$task${gpu:+ on GPU $gpu}: exit $status after $((left - end + $(date +%s))) s"
    tail -n 3 "$log"
    flock "$work/table.lock" python "$here/scripts/situations_table.py" "$study" "$work/runs" "$table" --free
  done
}

backwards=
for task in "$@"; do backwards="$task $backwards"; done
gpus=${GPUS:-$(nvidia-smi --query-gpu=index --format=csv,noheader 2> /dev/null || true)}
[ -n "$gpus" ] || { do_tasks "" "$@"; exit; }
front=yes
for gpu in $gpus; do
  # shellcheck disable=SC2086
  if [ "$front" ]; then do_tasks "$gpu" "$@" & else do_tasks "$gpu" $backwards & fi
  [ "$front" ] && front= || front=yes
done
wait
