#!/usr/bin/env bash
# The offline study of docs/offline.md: data from rlx's own agents, four ways to learn from it, and the way back online.
# Half an hour to an hour on two cores. What is there already is not made again: delete it, or choose another folder.
#   scripts/offline_study.sh [FOLDER]        (default: runs/offline-study)
# KINDS=medium or KINDS=mixed makes that half alone; two halves may be made at once. TASKS=inverted_pendulum or TASKS=ant
# makes one task alone.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-runs/offline-study}
. scripts/offline_runs.sh

study() { # TASK TRANSITIONS UPDATES EPISODES ENV...: the settings that follow go to every agent of the task
    local task=$1 size=$2 updates=$3 episodes=$4
    shift 4
    local common=(--preset small --num-seeds 3 --offline-steps "$updates" --eval-every "$updates"
        --eval-episodes "$episodes" --checkpoint-every $((updates / 4)) --normalize-observations)
    local critic=(--gamma 0.98 --tau 0.02 --reward-scale 0.1)
    for kind in ${KINDS:-medium mixed}; do
        local data="$folder/data-$task-$kind"
        [ -d "$data" ] || $rlx collect "$folder/sac-$task" --kind $kind --num-transitions "$size" --out "$data"
        train "$task-$kind-bc" bc --dataset "$data" "${common[@]}" "${actor[@]}"
        train "$task-$kind-td3_bc" td3_bc --dataset "$data" "${common[@]}" "${critic[@]}" "${actor[@]}" "${critics[@]}"
        train "$task-$kind-iql" iql --dataset "$data" "${common[@]}" "${critic[@]}" "${actor[@]}" "${critics[@]}"
        train "$task-$kind-idql" idql --dataset "$data" "${common[@]}" "${critic[@]}" "${critics[@]}" \
            --batch-size 128 "${score[@]}"
    done
}

inverted_pendulum() {
    local env=(--env brax:inverted_pendulum --backend generalized)
    train sac-inverted_pendulum sac "${env[@]}" --eval-every 1000
    actor=() critics=() score=(--num-samples 16)
    study inverted_pendulum 1e5 20000 32

    # Online from the medium set, with half of each minibatch from it, and SAC alone at the same steps.
    train online-iql iql --dataset "$folder/data-inverted_pendulum-medium" --preset small --num-seeds 3 \
        --offline-steps 20000 --total-env-steps 8000 --offline-fraction 0.5 --num-envs 64 --warmup-env-steps 1024 \
        --ratio 24:24 --batch-size 128 --gamma 0.98 --tau 0.02 --reward-scale 0.1 --normalize-observations \
        --actor-decay-steps -1 --eval-every 2000
    train online-sac sac "${env[@]}" --num-seeds 3 --total-env-steps 8000 --eval-every 2000
}

ant() {
    train sac-ant sac --env brax:ant --eval-every 20000
    actor=(--actor-hidden-sizes 128 128) critics=(--critic-hidden-sizes 128 128)
    score=(--num-samples 32 --actor-lr 1e-3)
    study ant 2e5 30000 48
}

for task in ${TASKS:-inverted_pendulum ant}; do $task; done
if [ -z "${KINDS:-}" ]; then $python scripts/offline_table.py "$folder"; fi
