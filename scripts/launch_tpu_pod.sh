#!/usr/bin/env bash
# Starts one training command on every worker of a TPU pod slice. Run it where gcloud is set up, not on the pod.
set -euo pipefail

usage="usage: launch_tpu_pod.sh NAME ZONE [--project PROJECT] [--dry-run] -- rlx train AGENT --env ENV ..."

fail() {
    printf 'launch_tpu_pod.sh: %s\n' "$1" >&2
    exit 2
}

# The words as one line that a shell reads back as the same words.
quoted() {
    local line
    printf -v line '%q ' "$@"
    printf '%s' "${line% }"
}

places=() options=() dry_run=false
while (($#)) && [[ $1 != -- ]]; do
    case $1 in
        -h | --help)
            echo "$usage"
            exit 0
            ;;
        --dry-run) dry_run=true ;;
        --project)
            [[ -n ${2:-} && $2 != -* ]] || fail "--project: needs a name, as in --project my-project"
            options=(--project "$2")
            shift
            ;;
        -*) fail "unknown option $1: use --project PROJECT or --dry-run here, and flags of rlx after --" ;;
        *) places+=("$1") ;;
    esac
    shift
done

((${#places[@]} == 2)) || fail "give the pod's NAME and ZONE, then -- and the command; $usage"
(($#)) || fail "no command: put -- and then rlx train ... behind NAME and ZONE"
shift
program=${1:-}
[[ ${program##*/} == rlx && ${2:-} == train ]] || fail "the command after -- must begin with rlx train (rlx may be a path)"

command=("$@") joined=false
for word in "$@"; do
    if [[ $word == --distributed ]]; then joined=true; fi
done
$joined || command+=(--distributed)

line=(gcloud compute tpus tpu-vm ssh "${places[0]}" --zone "${places[1]}")
line+=(${options[@]+"${options[@]}"} --worker=all --command "$(quoted "${command[@]}")")
if $dry_run; then
    quoted "${line[@]}"
    echo
    exit 0
fi
command -v gcloud >/dev/null || fail "gcloud is not on the path: install the Google Cloud CLI, or look first with --dry-run"
exec "${line[@]}"
