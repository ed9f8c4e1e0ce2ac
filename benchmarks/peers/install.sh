#!/usr/bin/env bash
# Makes the environment of each peer that is named (default: all) from its pins, in .cache/peers. Needs a network.
# A peer that is no package has its repository and commit in the pins' first line; they go to .cache/peers/NAME-source.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
python=$(make --silent -C "$root" python)
for name in "${@:-brax rejax sbx corl unifloral}"; do
    for peer in $name; do
        place="$root/.cache/peers/$peer"
        if [ -e "$place/pins.txt" ] && cmp -s "$place/pins.txt" "$here/$peer.txt"; then continue; fi
        echo "Installing $peer"
        rm -rf "$place"
        "$python" -m venv "$place"
        read -r _ kind address commit < "$here/$peer.txt"
        if [ "$kind" = source: ]; then
            [ -e "$place-source" ] || git clone --quiet "$address" "$place-source"
            git -C "$place-source" checkout --quiet "$commit"
        fi
        "$place/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$here/$peer.txt"
        cp "$here/$peer.txt" "$place/pins.txt"
    done
done
