#!/bin/sh
# Install the relay on a Debian host, change to a new release, or go back to an old one.
#
#   deploy/install.sh [install]           from this checkout: a release beside those that are there
#   deploy/install.sh wheel [DIR]         only build the wheel, for hosts without a compiler
#   deploy/install.sh rollback [RELEASE]  to the release before the current one, or to that one
#   deploy/install.sh list                what is installed
#   deploy/install.sh uninstall           remove all but the configuration and the data
#
#   --dry-run            say what would be done; do nothing
#   --root DIR           install below DIR in place of /: no user is made, nothing is started
#   --prefix DIR         where releases go [/opt/relay]
#   --wheel FILE         install this wheel; it may carry compiled modules
#   --compiled yes|no|auto   compile the hot modules [auto: where gcc and Python's headers are]
#   --embedded           with the embedded Postgres and Valkey, for hosts that have none of their own
#   --parquet            with what archives of the log as Parquet need: 160 MB on disk
#   --python PROGRAM     Python 3.11 or newer [/usr/bin/python3]
#   --release NAME       what the release is called [version and commit]
#   --keep N             how many old releases stay [3]
#   --no-start           install only; do not enable or start the service
#
# Layout: PREFIX/releases/NAME is a whole virtual environment; PREFIX/current links to one of them and
# is replaced in one step. Doing it again changes nothing. A release that does not become ready is
# left for the one before it. What an operator writes (/etc/relay) is never overwritten.
set -eu

SYSTEMCTL=${SYSTEMCTL:-systemctl}
READY_URL=${RELAY_READY_URL:-http://127.0.0.1:8081/readyz}
READY_S=${RELAY_READY_S:-60}
UNITS="relay.service relay.socket relay-admin.socket relay-refuse.service"

command=install
dry_run=no root="" prefix=/opt/relay wheel="" compiled=auto embedded=no parquet=no python=/usr/bin/python3 release="" keep=3
start=yes argument=""
here=$(cd "$(dirname "$0")" && pwd)
source=$(dirname "$here")

say() { printf 'install: %s\n' "$*" >&2; }
die() {
    say "$*"
    exit 1
}
usage() {
    sed -n '2,/^set -eu/{/^#/!d;s/^# \{0,1\}//;p}' "$0"
    exit "$1"
}
# Do a step, or only say it.
run() {
    if [ "$dry_run" = yes ]; then
        printf '+ %s\n' "$*"
    else
        "$@"
    fi
}

parse() {
    while [ $# -gt 0 ]; do
        case $1 in
        install | wheel | rollback | list | uninstall) command=$1 ;;
        --dry-run) dry_run=yes ;;
        --embedded) embedded=yes ;;
        --parquet) parquet=yes ;;
        --no-start) start=no ;;
        --root | --prefix | --wheel | --compiled | --python | --release | --keep)
            [ $# -gt 1 ] || die "$1 needs a value"
            name=${1#--}
            eval "$name=\$2"
            shift
            ;;
        -h | --help) usage 0 ;;
        -*) die "unknown option $1; --help tells more" ;;
        *) argument=$1 ;;
        esac
        shift
    done
    case $compiled in yes | no | auto) ;; *) die "--compiled is yes, no or auto" ;; esac
    case $keep in '' | *[!0-9]*) die "--keep is a number" ;; esac
    case $prefix in /*) ;; *) die "--prefix must begin with /" ;; esac
    case $release in */* | .*) die "--release is a plain name" ;; esac
    if [ -n "$root" ]; then
        run mkdir -p "$root"
        [ ! -d "$root" ] || root=$(cd "$root" && pwd)
        [ -n "${RELAY_INSTALL_START:-}" ] || start=no
    fi
    home=$root$prefix
}

# --- what a release is made of -----------------------------------------------------------------

check_python() {
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
        die "$python is not Python 3.11 or newer: apt install python3"
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        die "$python cannot make virtual environments: apt install python3-venv"
    real=$("$python" -c 'import os, sys; print(os.path.realpath(sys.executable))') || real=""
    case $root$real in
    /root/* | /home/*) die "$python is $real, where the service may not look: --python another" ;;
    esac
}

can_compile() {
    command -v gcc >/dev/null 2>&1 && "$python" -c '
import pathlib, sys, sysconfig
sys.exit(not pathlib.Path(sysconfig.get_path("include"), "Python.h").is_file())'
}

name_release() {
    [ -z "$release" ] || return 0
    if [ -n "$wheel" ]; then
        version=$(basename "$wheel" | cut -d- -f2)
        release=$version-w$(sha256sum "$wheel" | cut -c1-8)
        return
    fi
    version=$(sed -n 's/^version = "\(.*\)"$/\1/p' "$source/pyproject.toml" | head -n 1)
    [ -n "$version" ] || die "$source/pyproject.toml names no version"
    commit=$(git -C "$source" rev-parse --short=8 HEAD 2>/dev/null) || commit=""
    release=$version${commit:+-g$commit}
    if [ -n "$commit" ] && [ -n "$(git -C "$source" status --porcelain -- relay 2>/dev/null)" ]; then
        release=$release-dirty-$(date -u +%Y%m%d%H%M%S)
    fi
}

# Build a wheel of the checkout into a folder; the checkout itself stays as it is.
build_wheel() {
    into=$1
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    mkdir "$scratch/source"
    cp -R "$source/relay" "$source/pyproject.toml" "$source/setup.py" "$source/README.md" \
        "$scratch/source"
    "$python" -m venv "$scratch/tools"
    "$scratch/tools/bin/pip" install --quiet --disable-pip-version-check --require-hashes \
        --only-binary :all: --requirement "$here/requirements-build.lock"
    want=0
    case $compiled in
    yes) want=1 ;;
    auto) if can_compile; then want=1; else say "no gcc or Python headers: pure Python, at twice" \
        "the CPU a call (apt install gcc python3-dev)"; fi ;;
    esac
    [ $want = 0 ] || say "compiling the hot modules takes a minute or two"
    RELAY_COMPILED=$want "$scratch/tools/bin/pip" wheel --quiet --disable-pip-version-check \
        --no-deps --no-build-isolation --wheel-dir "$into" "$scratch/source"
    rm -rf "$scratch"
    trap - EXIT
}

build_release() {
    place=$home/releases/$release
    if [ -f "$place/.complete" ]; then
        say "release $release is there"
        return
    fi
    say "building release $release"
    run rm -rf "$place"
    run mkdir -p "$home/releases"
    run "$python" -m venv "$place"
    lock=requirements.lock
    [ "$embedded" = no ] || lock=requirements-embedded.lock
    set -- --requirement "$here/$lock"
    [ "$parquet" = no ] || set -- "$@" --requirement "$here/requirements-parquet.lock"
    run "$place/bin/pip" install --quiet --disable-pip-version-check --require-hashes \
        --only-binary :all: "$@"
    if [ -z "$wheel" ]; then
        run build_wheel "$place/wheel"
        wheel="$place/wheel/*.whl"
    fi
    # shellcheck disable=SC2086 # the wheel's name is not known before it is built
    run "$place/bin/pip" install --quiet --disable-pip-version-check --no-deps --no-index $wheel
    run cp -R "$here" "$place/deploy"
    [ ! -f "$source/README.md" ] || run cp "$source/README.md" "$place"
    run "$place/bin/relay" --version
    run touch "$place/.complete"
}

# --- what else the host gets -------------------------------------------------------------------

put() { # MODE FILE TARGET: ours, always as this release has it
    run install -D -m "$1" "$here/$2" "$root$3"
}
keep_theirs() { # MODE FILE TARGET: an operator's, from the first time on
    if [ -e "$root$3" ]; then
        say "$3 stays as it is"
    else
        put "$1" "$2" "$3"
    fi
}

install_files() {
    put 0644 sysusers.d/relay.conf /usr/lib/sysusers.d/relay.conf
    put 0644 tmpfiles.d/relay.conf /usr/lib/tmpfiles.d/relay.conf
    put 0644 sysctl.d/60-relay.conf /usr/lib/sysctl.d/60-relay.conf
    for unit in $UNITS; do
        put 0644 "$unit" "/etc/systemd/system/$unit"
    done
    put 0755 relay-command "/usr/local/bin/relay"
    if [ "$prefix" != /opt/relay ]; then
        run sed -i "s|/opt/relay|$prefix|g" "$root/etc/systemd/system/relay.service" \
            "$root/usr/local/bin/relay"
    fi
    keep_theirs 0640 relay.toml /etc/relay/relay.toml
    if [ -z "$root" ]; then
        run systemd-sysusers /usr/lib/sysusers.d/relay.conf
        run systemd-tmpfiles --create /usr/lib/tmpfiles.d/relay.conf
        # In a container some values belong to the host.
        run /usr/lib/systemd/systemd-sysctl /usr/lib/sysctl.d/60-relay.conf ||
            say "not every kernel setting could be made; relay doctor says which are missing"
    else
        run mkdir -p "$root/var/lib/relay"
    fi
}

# --- which release is in use -------------------------------------------------------------------

current() { readlink "$home/current" 2>/dev/null | sed 's|.*/||'; }
previous() { readlink "$home/previous" 2>/dev/null | sed 's|.*/||'; }

# One rename: whoever looks finds the old link or the new one, never none.
point() { # LINK RELEASE
    run ln -sfn "releases/$2" "$home/.$1"
    run mv -T "$home/.$1" "$home/$1"
}

switch() {
    before=$(current)
    if [ "$before" = "$1" ]; then
        return
    fi
    [ -z "$before" ] || point previous "$before"
    point current "$1"
    say "current is $1${before:+, before it $before}"
}

ready() {
    "$home/current/bin/python" - "$READY_URL" "$READY_S" <<'PY'
import sys, time, urllib.error, urllib.request

url, patience_s = sys.argv[1], float(sys.argv[2])
until_s = time.monotonic() + patience_s
while True:
    try:
        with urllib.request.urlopen(url, timeout=2):
            sys.exit(0)
    except (OSError, urllib.error.HTTPError):
        if time.monotonic() > until_s:
            sys.exit(1)
        time.sleep(0.2)
PY
}

begin() {
    "$SYSTEMCTL" daemon-reload &&
        "$SYSTEMCTL" enable --quiet relay.service relay.socket relay-admin.socket &&
        "$SYSTEMCTL" reset-failed relay.service relay.socket relay-admin.socket
    # The sockets first: they stay open over every restart that follows.
    "$SYSTEMCTL" start relay.socket relay-admin.socket && change && ready
}

# A relay that runs becomes the current release by itself; without one, or with one from before it
# could, the service is started.
change() {
    if [ -e "$root/var/lib/relay/run/supervisor.json" ] &&
        "$SYSTEMCTL" is-active --quiet relay.service; then
        "$SYSTEMCTL" reload relay.service
    else
        "$SYSTEMCTL" restart relay.service
    fi
}

activate() { # the release that current names; else back to $1
    if [ "$start" = no ]; then
        return
    fi
    if [ "$dry_run" = yes ]; then
        printf '+ %s\n' "systemctl daemon-reload, enable, restart; wait for $READY_URL" \
            "where it does not become ready: current back to ${1:-what it was}, restart"
        return
    fi
    if begin; then
        say "ready"
        return
    fi
    failed=$(current)
    say "release $failed does not become ready; journalctl -u relay says why"
    if [ -z "$1" ] || [ "$1" = "$failed" ]; then
        exit 1
    fi
    point current "$1"
    rm -f "$home/previous"
    if begin; then
        die "rolled back to $1, which serves"
    fi
    die "rolled back to $1, which does not become ready either: it is not the release"
}

# A configuration that the new release does not take is told before anything is changed.
check_configuration() {
    file=$root/etc/relay/relay.toml
    if [ "$dry_run" = yes ]; then
        printf '+ %s\n' "$home/releases/$release/bin/relay check $file"
    elif ! "$home/releases/$release/bin/relay" check "$file" >&2; then
        die "release $release does not take $file: nothing was switched"
    fi
}

prune() {
    now=$(current) before=$(previous)
    # shellcheck disable=SC2012 # the names are ours: no blanks in them
    ls -1t "$home/releases" 2>/dev/null | tail -n "+$((keep + 2))" | while read -r old; do
        if [ "$old" != "$now" ] && [ "$old" != "$before" ]; then
            say "removing release $old"
            run rm -rf "$home/releases/$old"
        fi
    done
}

# --- commands ----------------------------------------------------------------------------------

do_install() {
    [ -n "$root" ] || [ "$(id -u)" = 0 ] || [ "$dry_run" = yes ] || die "needs root, or --root DIR"
    check_python
    name_release
    build_release
    install_files
    check_configuration
    before=$(current)
    switch "$release"
    activate "$before"
    prune
}

do_wheel() {
    check_python
    into=${argument:-.}
    run mkdir -p "$into"
    run build_wheel "$into"
    say "the wheel is in $into"
}

do_rollback() {
    target=${argument:-$(previous)}
    [ -n "$target" ] || die "there is no release before this one"
    [ -f "$home/releases/$target/.complete" ] || die "there is no release $target; see: list"
    before=$(current)
    switch "$target"
    activate "$before"
}

do_list() {
    now=$(current) before=$(previous)
    for place in "$home"/releases/*; do
        [ -f "$place/.complete" ] || continue
        name=${place##*/}
        mark=
        [ "$name" != "$before" ] || mark=' (previous)'
        [ "$name" != "$now" ] || mark=' (current)'
        printf '%s%s\n' "$name" "$mark"
    done
}

do_uninstall() {
    [ -n "$root" ] || [ "$(id -u)" = 0 ] || [ "$dry_run" = yes ] || die "needs root, or --root DIR"
    if [ "$start" = yes ]; then
        run "$SYSTEMCTL" disable --now relay.service relay.socket relay-admin.socket
    fi
    for unit in $UNITS; do
        run rm -f "$root/etc/systemd/system/$unit"
    done
    for file in /usr/lib/sysusers.d/relay.conf /usr/lib/tmpfiles.d/relay.conf \
        /usr/lib/sysctl.d/60-relay.conf /usr/local/bin/relay; do
        run rm -f "$root$file"
    done
    run rm -rf "$home"
    if [ "$start" = yes ]; then
        run "$SYSTEMCTL" daemon-reload
    fi
    say "kept: $root/etc/relay (configuration), $root/var/lib/relay (journals, secrets), user relay"
}

parse "$@"
"do_$command"
