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

joined="$folder/pendulum-mostly-random-v0"

weighted() {
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
    local data=(--dataset "$folder/pendulum-mixed-v0" --gamma 0.97 --reward-scale 0.1)
    local sizes=(--critic-hidden-sizes 64 64 --score-width 32 --score-blocks 1 --time-features 32 --diffusion-steps 10)
    local run="$folder/study-behaviour/eda-{task}" arm fraction
    study behaviour eda "${data[@]}" "${sizes[@]}" --solver-steps 10 --batch-size 128 --score-lr 1e-3 \
        --offline-steps 10000 --eval-every 5000 --pretrain-steps 1000000 --alignment-rows 1 --alignment-actions 1
    settings none '{"batch_size": 128, "actor_lr": 0, "offline_steps": 8, "eval_every": 8}'
    for arm in all:1 few:0.01; do
        fraction="\"batch_size\": 512, \"label_fraction\": ${arm#*:}"
        settings "${arm%:*}" "{$fraction, \"actor_lr\": 2e-4, \"offline_steps\": 2000, \"eval_every\": 2000}"
    done
    study labels "eda@$folder/none.json" "eda@$folder/all.json" "eda@$folder/few.json" "${data[@]}" "${sizes[@]}" \
        --alignment-rows 16 --alignment-actions 8 --solver-steps 5 --pretrain-steps -1 --num-samples 1 \
        --actor-decay-steps 0 --q-weight 3 --beta 1 --init-from "behaviour=$run,critic=$run"
}

rlpd='"layer_norm": true, "target_entropy_per_action": -0.5, "temperature_loss": "alpha", "kernel_init": "xavier"'
rlpd+=', "offline_fraction": 0.5' # the preset

sparse() { # RLPD, and SAC with the same rows in its buffer, where reward comes at the end alone
    local env=(--env gymnax:MountainCarContinuous-v0)
    train climber sac "${env[@]}" --total-env-steps 30000
    collect climber-expert-v0 climber expert 1000
    local sizes=(--actor-hidden-sizes 64 64 --critic-hidden-sizes 64 64 --batch-size 128 --num-envs 64)
    local rates=(--actor-lr 1e-3 --critic-lr 1e-3 --alpha-lr 1e-3 --tau 0.02 --alpha-init 0.1 --reward-scale 0.1)
    local steps=(--total-env-steps 20000 --warmup-env-steps 1024 --eval-every 4000)
    local common=("${sizes[@]}" "${rates[@]}" "${steps[@]}" --n-step 1) fraction
    local without='"noise_max": 0, "noise_hold": 1, "normalize_rewards": false' # held noise, of the preset, solves it
    for fraction in 0.05 0.5; do
        settings "buffer-$fraction" "{$without, \"ratio\": \"24:24\", \"offline_fraction\": $fraction}"
    done
    settings rlpd "{$rlpd, \"num_critics\": 5, \"ratio\": \"48:12\"}"
    study sparse "sac@$folder/buffer-0.05.json" "sac@$folder/buffer-0.5.json" "redq@$folder/rlpd.json" "${common[@]}" \
        --dataset "$folder/climber-expert-v0" --offline-steps 0
    local members=(--num-seeds "$seeds") # and without data
    train sparse-sac sac "${env[@]}" "${common[@]}" "${members[@]}" --noise-max 0 --noise-hold 1 --no-normalize-rewards \
        --ratio 24:24
    train sparse-redq redq "${env[@]}" "${common[@]}" "${members[@]}" --preset rlpd --num-critics 5 --ratio 48:12
}

maze() { # the same, where SAC alone does not find the goal in these steps
    [ -d "$folder/maze-mixed-v0" ] || $rlx collect maze:large --env-args task=3 --kind navigate=0.5,expert=0.5 \
        --num-transitions 5000 --out "$folder/maze-mixed-v0"
    local sizes=(--actor-hidden-sizes 64 64 --critic-hidden-sizes 64 64 --batch-size 128 --num-envs 8)
    local rates=(--actor-lr 1e-3 --critic-lr 1e-3 --alpha-lr 1e-3 --tau 0.02 --alpha-init 0.1 --n-step 1)
    local steps=(--total-env-steps 20000 --warmup-env-steps 1000 --eval-every 2500)
    local common=("${sizes[@]}" "${rates[@]}" "${steps[@]}")
    settings maze-buffer '{"ratio": "8:8", "offline_fraction": 0.2}'
    settings maze-updates '{"ratio": "40:8", "offline_fraction": 0.2}' # as many as RLPD's
    settings maze-rlpd "{$rlpd, \"num_critics\": 5, \"ratio\": \"40:8\"}"
    study maze "sac@$folder/maze-buffer.json" "sac@$folder/maze-updates.json" "redq@$folder/maze-rlpd.json" \
        "${common[@]}" --dataset "$folder/maze-mixed-v0" --offline-steps 0
    train maze-sac sac --env maze:large --env-args task=3 "${common[@]}" --num-seeds "$seeds" --ratio 8:8
}

wsrl() { # Cal-QL, then WSRL: with and without entropy in the targets, from the policy's steps, random ones and none
    local data=(--dataset "$folder/pendulum-medium-v0" --num-seeds "$seeds" "${small[@]}" "${fast[@]}" --batch-size 64)
    local online=(--env gymnax:Pendulum-v1 --preset wsrl --num-critics 3 --total-env-steps 3000 --eval-every 200)
    online+=(--num-seeds "$seeds")
    local alpha entropy from
    for alpha in 0.05 1; do
        train "calql-$alpha" cql "${data[@]}" --calibrated --num-critics 3 --layer-norm --penalty-actions 2 \
            --backup-actions 2 --penalty-weight 1 --offline-steps 4000 --alpha-init $alpha
        from="policy=$folder/calql-$alpha,critic=$folder/calql-$alpha"
        for entropy in no-backup-entropy backup-entropy; do
            train "wsrl-$alpha-$entropy" redq "${online[@]}" --init-from "$from" --$entropy --warmup-env-steps 1000
            [[ $alpha == 1 ]] && continue
            train "wsrl-$alpha-$entropy-random" redq "${online[@]}" --init-from "$from" --$entropy \
                --warmup-env-steps 1000 --warmup-actions random
            train "wsrl-$alpha-$entropy-none" redq "${online[@]}" --init-from "$from" --$entropy --warmup-env-steps 0
        done
    done
}

expo() { # EXPO, RLPD and SAC with the same data
    settings expo '{"offline_fraction": 0.5, "num_critics": 3, "num_samples": 4}'
    settings expo-rlpd "{$rlpd, \"num_critics\": 3}"
    settings expo-half '{"offline_fraction": 0.5}'
    study expo "expo@$folder/expo.json" "redq@$folder/expo-rlpd.json" "sac@$folder/expo-half.json" \
        --dataset "$folder/pendulum-medium-v0" --offline-steps 0 --total-env-steps 5000 --eval-every 512
}

guidance() { # CFGRL, once trained, under several weights of its guidance
    collect pendulum-mostly-random-v0 teacher random=0.95,expert=0.05 20000
    local common=(--dataset "$joined" "${small[@]}" --flow-steps 5 --expectile 0.7 --no-layer-norm --no-value-layer-norm)
    common+=(--normalize-observations)
    local sizes='"actor_hidden_sizes": [64, 64], "critic_hidden_sizes": [64, 64]' columns=() weight
    study guided cfgrl "${common[@]}" "${fast[@]}" --offline-steps 6000 --guidance 3
    for weight in 0 0.5 1 1.5 2 3 5 8; do
        settings "guidance-$weight" "{$sizes, \"guidance\": $weight}"
        columns+=("cfgrl@$folder/guidance-$weight.json")
    done
    study guidance "${columns[@]}" "${common[@]}" --actor-lr 0 --critic-lr 0 --tau 0 --offline-steps 1 \
        --init-from "$folder/study-guided/cfgrl-{task}"
}

distilled() { # IDQL, and SRPO from its critics and its model of the data
    collect pendulum-mostly-random-v0 teacher random=0.95,expert=0.05 20000
    local common=(--dataset "$joined" "${small[@]}" "${fast[@]}" --normalize-observations)
    common+=(--score-width 32 --score-blocks 1 --diffusion-steps 10)
    local sizes='"actor_hidden_sizes": [64, 64], "critic_hidden_sizes": [64, 64], "time_features": 32' columns=() weight
    local run="$folder/study-sampled/idql-{task}"
    study sampled idql "${common[@]}" --no-value-layer-norm --num-samples 4 --explore-samples 4 --offline-steps 4000
    for weight in 0.1 0.5 2; do
        settings "q-$weight" "{$sizes, \"q_weight\": $weight}"
        columns+=("srpo@$folder/q-$weight.json")
    done
    study distilled "${columns[@]}" "${common[@]}" --score-lr 0 --offline-steps 3000 \
        --init-from "behaviour=$run,critic=$run"
}

[[ "${TABLES:-all}" == maze ]] || pendulum
for table in ${TABLES:-mcep weighted corrupted labels sparse maze wsrl expo guidance distilled}; do $table; done
