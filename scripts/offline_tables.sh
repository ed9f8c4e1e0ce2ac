#!/usr/bin/env bash
# The tables of benchmarks/results/offline.md, from nothing: teachers, data sets and every study, in a folder of its own.
# What is there already is not made again, and a study that was interrupted goes on: delete a folder to repeat it.
#   scripts/offline_tables.sh [FOLDER]       (default: runs/offline-tables)
# TABLES="mcep weighted" makes those alone; SEEDS=3 takes fewer than 5.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-runs/offline-tables}
. scripts/offline_runs.sh
seeds=${SEEDS:-5}
small=(--preset small --gamma 0.97 --reward-scale 0.1)
fast=(--actor-lr 1e-3 --critic-lr 1e-3 --tau 0.02)

collect() { # NAME TEACHER KIND ROWS
    [ -d "$folder/$1" ] || $rlx collect "$folder/$2" --kind "$3" --num-transitions "$4" --out "$folder/$1"
}

study() { # NAME AGENTS AND SETTINGS...: a table, which study.md in its folder holds
    local name=$1
    shift
    if [ -f "$folder/study-$name/study.json" ]; then
        $rlx study --resume "$folder/study-$name" --quiet
    else
        $rlx study "$@" --run-dir "$folder" --run-name "study-$name" --num-seeds "$seeds" --quiet
    fi
}

settings() { # NAME JSON: a file of settings
    echo "$2" >"$folder/$1.json"
}

pendulum() { # the sets of Pendulum-v1
    train teacher sac --env gymnax:Pendulum-v1 --eval-every 400
    collect pendulum-medium-v0 teacher medium 5e4
}

mcep() {
    study mcep td3_bc mcep --dataset "$folder/pendulum-medium-v0" "${small[@]}" --offline-steps 10000
}

weighted() {
    local joined="$folder/pendulum-mostly-random-v0"
    collect pendulum-mostly-random-v0 teacher random=0.95,expert=0.05 20000
    local sizes='"actor_hidden_sizes": [64, 64], "critic_hidden_sizes": [64, 64]'
    settings weighted "{$sizes, \"trajectory_weights\": \"return\"}"
    local by_return="$folder/weighted.json"
    study weighted iql "iql@$by_return" td3_bc "td3_bc@$by_return" --dataset "$joined" "${small[@]}" --offline-steps 10000
    study weighted-cql cql "cql@$by_return" --dataset "$joined" "${small[@]}" --offline-steps 5000
}

corrupted() {
    local what sets=()
    for what in observation action reward dynamics; do
        sets+=("$folder/pendulum-medium-$what-v0")
        [ -d "${sets[-1]}" ] || $rlx data corrupt "$folder/pendulum-medium-v0" "${sets[-1]}" --what $what --rate 0.3
    done
    study corrupted iql riql --dataset "${sets[@]}" "${small[@]}" "${fast[@]}" --normalize-observations --batch-size 128 \
        --offline-steps 3000
}

labels() { # EDA from one behaviour: as it is, aligned with Q at all rows, and at 1 % of them
    collect pendulum-mixed-v0 teacher mixed 5e4
    local sizes=(--score-width 32 --score-blocks 1 --diffusion-steps 10) fraction set=pendulum-mixed-v0
    local common=("${small[@]}" "${sizes[@]}" --num-seeds "$seeds" --dataset "$folder/$set")
    train behaviour eda "${common[@]}" --solver-steps 10 --batch-size 128 --score-lr 1e-3 --offline-steps 10000 \
        --eval-every 5000 --pretrain-steps 1000000 --alignment-rows 1 --alignment-actions 1
    common+=(--solver-steps 5 --pretrain-steps -1 --num-samples 1)
    common+=(--init-from "behaviour=$folder/behaviour,critic=$folder/behaviour")
    train labels-none eda "${common[@]}" --batch-size 128 --actor-lr 0 --offline-steps 8 --eval-every 8
    for fraction in 1 0.01; do
        train labels-$fraction eda "${common[@]}" --batch-size 512 --label-fraction $fraction --actor-lr 2e-4 \
            --actor-decay-steps 0 --q-weight 3 --beta 1 --offline-steps 2000 --eval-every 2000
    done
}

sparse() { # RLPD, and SAC with the same rows in its buffer, where reward comes at the end alone
    local env=(--env gymnax:MountainCarContinuous-v0)
    train climber sac "${env[@]}" --total-env-steps 30000
    collect climber-expert-v0 climber expert 1000
    local sizes=(--actor-hidden-sizes 64 64 --critic-hidden-sizes 64 64 --batch-size 128 --num-envs 64)
    local rates=(--actor-lr 1e-3 --critic-lr 1e-3 --alpha-lr 1e-3 --tau 0.02 --alpha-init 0.1 --reward-scale 0.1)
    local steps=(--total-env-steps 20000 --warmup-env-steps 1024 --eval-every 4000 --num-seeds "$seeds")
    local common=("${env[@]}" "${sizes[@]}" "${rates[@]}" "${steps[@]}" --n-step 1)
    local without=(--noise-max 0 --noise-hold 1 --no-normalize-rewards)  # the task's preset solves it by held noise
    local data=(--dataset "$folder/climber-expert-v0" --offline-steps 0)
    train sparse-sac sac "${common[@]}" "${without[@]}" --ratio 24:24
    train sparse-sac-data sac "${common[@]}" "${without[@]}" --ratio 24:24 "${data[@]}" --offline-fraction 0.05
    train sparse-sac-half sac "${common[@]}" "${without[@]}" --ratio 24:24 "${data[@]}" --offline-fraction 0.5
    train sparse-redq redq "${common[@]}" --preset rlpd --num-critics 5 --ratio 48:12
    train sparse-rlpd redq "${common[@]}" --preset rlpd --num-critics 5 --ratio 48:12 "${data[@]}"
}

maze() { # the same, where SAC alone does not find the goal in these steps
    [ -d "$folder/maze-mixed-v0" ] || $rlx collect maze:large --env-args task=3 --kind navigate=0.5,expert=0.5 \
        --num-transitions 5000 --out "$folder/maze-mixed-v0"
    local env=(--env maze:large --env-args task=3) data=(--dataset "$folder/maze-mixed-v0" --offline-steps 0)
    local sizes=(--actor-hidden-sizes 64 64 --critic-hidden-sizes 64 64 --batch-size 128 --num-envs 8)
    local rates=(--actor-lr 1e-3 --critic-lr 1e-3 --alpha-lr 1e-3 --tau 0.02 --alpha-init 0.1 --n-step 1)
    local steps=(--total-env-steps 20000 --warmup-env-steps 1000 --eval-every 2500 --num-seeds "$seeds")
    local common=("${env[@]}" "${sizes[@]}" "${rates[@]}" "${steps[@]}")
    train maze-sac sac "${common[@]}" --ratio 8:8
    train maze-sac-data sac "${common[@]}" --ratio 8:8 "${data[@]}" --offline-fraction 0.2
    train maze-sac-updates sac "${common[@]}" --ratio 40:8 "${data[@]}" --offline-fraction 0.2 # as many as RLPD's
    train maze-rlpd redq "${common[@]}" --preset rlpd --num-critics 5 --ratio 40:8 "${data[@]}"
}

[[ "${TABLES:-all}" == maze ]] || pendulum
for table in ${TABLES:-mcep weighted corrupted labels sparse maze}; do $table; done
