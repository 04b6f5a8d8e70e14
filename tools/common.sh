# Sourced by the scripts in this folder: what a fresh Debian machine lacks, and one build for all of them.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
# INAZUMA_BINARY: where there is no Rust to build it.
binary="${INAZUMA_BINARY:-${CARGO_TARGET_DIR:-$root/target}/release/inazuma}"

say() { printf '== %s\n' "$*" >&2; }

# Installs Debian packages if any of the given commands is missing: `need "cmake g++" "cmake g++ make"`.
need() {
  local missing=0 command
  for command in $1; do
    command -v "$command" >/dev/null 2>&1 || missing=1
  done
  [ "$missing" = 0 ] || install_packages "$2"
}

install_packages() {
  command -v apt-get >/dev/null 2>&1 || {
    echo "please install with your system's package manager: $1" >&2
    exit 1
  }
  local sudo=""
  [ "$(id -u)" = 0 ] || sudo="sudo"
  say "installing: $1"
  export DEBIAN_FRONTEND=noninteractive
  # shellcheck disable=SC2086  # a list of packages
  $sudo apt-get update -qq >/dev/null && $sudo apt-get install -y -qq $1 >/dev/null
}

# SentencePiece is built from its sources: cmake and a C++ compiler.
need_build_tools() {
  command -v cargo >/dev/null 2>&1 || {
    echo "cargo is missing: install Rust from https://rustup.rs, then run this again" >&2
    exit 1
  }
  need "cmake g++ make" "cmake g++ make"
}

# Whether the feature `mpi` can be built and tested here: Open MPI, and libclang with its own headers, which reads MPI's.
has_mpi() {
  command -v mpicc >/dev/null 2>&1 && command -v mpirun >/dev/null 2>&1 || return 1
  [ -z "${LIBCLANG_PATH:-}" ] || return 0
  {
    compgen -G '/usr/lib*/llvm-*/lib/libclang*.so*' || compgen -G '/usr/lib*/libclang.so*'
  } >/dev/null && {
    compgen -G '/usr/lib*/llvm-*/lib/clang/*/include/stddef.h' || compgen -G '/usr/lib*/clang/*/include/stddef.h'
  } >/dev/null
}

# For awk, before a program of its own: what was added under an index, its mean, and in brackets its standard deviation where it is
# more than one number.
# shellcheck disable=SC2034,SC2016  # used where this is sourced; awk's own variables
statistics='
  function add(i, x) { count[i]++; sum[i] += x; squares[i] += x * x }
  function mean(i) { return sum[i] / count[i] }
  function deviation(i,   v) { v = (squares[i] - count[i] * mean(i) ^ 2) / (count[i] - 1); return sqrt(v > 0 ? v : 0) }
  function told(i, form) { return count[i] > 1 ? sprintf(form " (" form ")", mean(i), deviation(i)) : sprintf(form, mean(i)) }
'

# need_kyoto_store DIR: the Kyoto corpus there as a tokenizer of 4,000 pieces and a store, 2 % held out; the program is built
# where it is not. The corpus lies in INAZUMA_SHARED.
need_kyoto_store() {
  local corpus=${INAZUMA_SHARED:-$root/../shared}/data/kyoto-jawiki.txt.xz
  [ -f "$corpus" ] || { echo "$corpus: no such file; INAZUMA_SHARED names the folder above data/" >&2; exit 1; }
  [ -x "$binary" ] || { need_build_tools; cargo build --release --quiet; }
  mkdir -p "$1"
  [ -f "$1/kyoto.txt" ] || { xz -dc "$corpus" > "$1/kyoto.part" && mv "$1/kyoto.part" "$1/kyoto.txt"; }
  [ -f "$1/tokenizer.model" ] || "$binary" tokenizer train "$1/kyoto.txt" --out "$1/tokenizer" --vocab-size 4000
  [ -f "$1/store" ] ||
    "$binary" prepare "$1/kyoto.txt" --tokenizer "$1/tokenizer.model" --out "$1/store" --held-out 2%
}
