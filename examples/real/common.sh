# Shared by the start scripts. Not executable by itself: `source` it after setting `name` and `here`.
#
#   WEIR_REAL_DIR  where everything downloaded or generated goes (default: examples/real/.work, ignored by git)
#   PORT           where the backend listens
#   HOST           on which address (default 127.0.0.1)

say() { printf '%s: %s\n' "$name" "$*" >&2; }
die() { say "$*"; exit 1; }

root=${WEIR_REAL_DIR:-$(dirname "$here")/.work}
work=$root/$name
host=${HOST:-127.0.0.1}
mkdir -p "$work"
work=$(cd "$work" && pwd)

# need COMMAND PACKAGES: says what to install, for this one thing or for all of it.
need() {
    command -v "$1" >/dev/null 2>&1 ||
        die "'$1' is missing. On Debian or Ubuntu: apt-get install $2 (or run scripts/install-test-deps for everything)."
}

# once STAMP WHAT COMMAND...: runs COMMAND unless it has succeeded before for this very STAMP. Several starts at
# the same time wait for each other, so that nobody uses a half-finished installation.
once() {
    local file=$work/.$2.stamp stamp=$1 what=$2
    shift 2
    exec 9>"$work/.$what.lock"
    flock 9
    if [ "$(cat "$file" 2>/dev/null)" != "$stamp" ]; then
        rm -f "$file"
        "$@" >&2 || die "$what failed"
        printf '%s\n' "$stamp" >"$file"
    fi
    exec 9>&-
}

# checksum FILES...: one word that changes when any of them does.
checksum() { cat "$@" | sha256sum | cut -c1-16; }
