# Sourced by ./test and ./demo: where things live, and how a fresh machine gets what it lacks.
# Nothing is written into the checkout; everything that takes time is kept in $MODELCACHE_CACHE.

MODELCACHE_CACHE=${MODELCACHE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/modelcache}
export MODELCACHE_CACHE
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$MODELCACHE_CACHE/target}
export CARGO_TERM_PROGRESS_WHEN=never
logs=$MODELCACHE_CACHE/logs
mkdir -p "$logs"

say() { printf '%s\n' "$*"; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }

# step WHAT LOG COMMAND…: runs it with its output in a file, and says how long it took or where to look.
step() {
  local what=$1 log=$logs/$2.log began=$SECONDS; shift 2
  printf '  %-52s' "$what"
  if "$@" >"$log" 2>&1; then printf '%4d s\n' $((SECONDS - began)); return 0; fi
  printf '  FAILED, see %s\n' "$log"; tail -n 15 "$log" | sed 's/^/    | /'; return 1
}

need_root() {
  [ "$(id -u)" = 0 ] || fail "this needs root: it makes network namespaces and mounts of its own (try: sudo $0)"
}

# Compilers and Python from the distribution; Rust and Go must be new enough already, or are named.
need_toolchains() {
  local missing=()
  command -v cc >/dev/null || missing+=(gcc libc6-dev)
  command -v python3 >/dev/null || missing+=(python3)
  python3 -c 'import venv, ensurepip' 2>/dev/null || missing+=(python3-venv)
  command -v curl >/dev/null || missing+=(curl)
  command -v cargo >/dev/null || [ -x "$HOME/.cargo/bin/cargo" ] || missing+=(rustup)
  command -v go >/dev/null || [ -x /usr/local/go/bin/go ] || missing+=(golang-go)
  if [ ${#missing[@]} -gt 0 ]; then
    say "installing ${missing[*]}"
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}" >/dev/null \
      || fail "cannot install ${missing[*]}; install them by hand and run this again"
  fi
  export PATH="$HOME/.cargo/bin:/usr/local/go/bin:$PATH"
  local wanted; wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$root/Cargo.toml" | head -n 1)
  cargo --version >/dev/null 2>&1 || rustup default "$wanted" >/dev/null 2>&1 || rustup default stable
  cargo --version | awk -v w="$wanted" '{ split($2, v, "."); split(w, x, "."); exit !(v[1] > x[1] || (v[1] == x[1] && v[2] >= x[2])) }' \
    || fail "Rust $wanted or newer is needed, this is $(cargo --version): rustup update stable"
}

# The programs, once, in the profile that images and tests share.
build_programs() {
  local log=$logs/build.log began=$SECONDS
  printf '  %-52s' "building operator, agent and tools (cold: 10 min)"
  (cd "$root" && cargo build --release --locked --workspace --bins) >"$log" 2>&1 \
    || { printf '  FAILED, see %s\n' "$log"; tail -n 25 "$log"; return 1; }
  printf '%4d s\n' $((SECONDS - began))
}

need_packages() { "$root/tests/cluster/packages" || fail "cannot install the distribution's packages"; }
