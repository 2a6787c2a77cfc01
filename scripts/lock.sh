#!/usr/bin/env bash
# Writes constraints.txt anew: the newest versions that the pyproject files allow, as pip resolves them on this machine.
#
#   scripts/lock.sh [PYTHON] [TORCH_VERSION]      default: python3.11, and the torch version that is locked now
#
# TORCH_INDEX, if set, is one more package index (CPU-only torch). The local label of such a build (+cpu) is
# dropped, so that the lock fits the plain build too. Review the diff, then run `make test-all`.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${1:-python3.11}
torch=${2:-$(sed -n 's/^torch==//p' constraints.txt)}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

echo "lock: resolving with $("$python" --version) and torch $torch, in a fresh environment" >&2
"$python" -m venv "$folder/venv"
pip=("$folder/venv/bin/python" -m pip --disable-pip-version-check)
index=()
[ -z "${TORCH_INDEX:-}" ] || index=(--extra-index-url "$TORCH_INDEX")
"${pip[@]}" install --quiet "${index[@]}" "torch==$torch" -e '.[dev]' -e client -e server -e 'simulations[peers]'

head -n 2 constraints.txt >"$folder/lock"
"${pip[@]}" freeze --all --exclude-editable 2>/dev/null | sed -E 's/\+[a-z0-9.]+$//; /^(#|pip==)/d' >>"$folder/lock"
cp "$folder/lock" constraints.txt
echo "lock: $(grep -c == constraints.txt) versions in constraints.txt" >&2
