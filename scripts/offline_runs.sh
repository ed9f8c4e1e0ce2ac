# For scripts that make many runs: source it with `folder` set.
rlx=${RLX:-rlx}
python=${PYTHON:-python}
mkdir -p "$folder"

train() { # NAME AGENT SETTINGS...: unless that was finished; goes on where it was interrupted
    local name=$1
    shift
    if [ -f "$folder/$name/summary.json" ]; then return; fi
    if [ -f "$folder/$name/config.json" ]; then
        $rlx train --resume "$folder/$name" --quiet
    else
        $rlx train "$@" --run-dir "$folder" --run-name "$name" --quiet
    fi
}
