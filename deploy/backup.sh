#!/bin/sh
# Back up one host of a relay into a folder, or bring a folder back on a new host.
#
#   deploy/backup.sh save DIR      a new folder below DIR, named by the time; prints its name
#   deploy/backup.sh restore DIR   into an empty database and an empty data dir, the relay stopped
#   deploy/backup.sh verify DIR    whether all of it is there and unchanged
#
# What is in it, and why it takes all three:
#   database.dump    accounts, keys' digests, ledger, request log (pg_dump, custom format)
#   secrets/         pepper and master key: without them the database's keys and credentials are
#                    useless. Encrypt the folder, or keep it apart from the dump: --no-secrets
#   journal/         calls that ended and are not in the database yet: money. EVERY host has its own
#   config/          relay.toml and what else is in its folder
#
#   --config FILE    [$RELAY_CONFIG or /etc/relay/relay.toml]     --data-dir DIR   [$RELAY_DATA_DIR or
#   --no-secrets     leave the secrets out                                          /var/lib/relay]
#   --no-database    only this host's journal, secrets and configuration: for all hosts but one
#   --database URL   of Postgres [from relay.toml; RELAY_DATABASE__URL]
#
# The journals are copied before the database is dumped: a call that is shipped in between is in both,
# and is booked once, by its request id. The other way round it would be in neither.
set -eu

command=${1:-} folder=${2:-}
config=${RELAY_CONFIG:-/etc/relay/relay.toml}
data=${RELAY_DATA_DIR:-/var/lib/relay}
secrets=yes database=yes url=${RELAY_DATABASE__URL:-}
RELAY=${RELAY:-relay}

say() { printf 'backup: %s\n' "$*" >&2; }
die() {
    say "$*"
    exit 1
}

case $command in
save | restore | verify) [ -n "$folder" ] || die "$command needs a folder" ;;
*)
    sed -n '2,/^set -eu/{/^#/!d;s/^# \{0,1\}//;p}' "$0"
    exit 2
    ;;
esac
shift 2
while [ $# -gt 0 ]; do
    case $1 in
    --no-secrets) secrets=no ;;
    --no-database) database=no ;;
    --config | --data-dir | --database)
        [ $# -gt 1 ] || die "$1 needs a value"
        case $1 in
        --config) config=$2 ;;
        --data-dir) data=$2 ;;
        --database) url=$2 ;;
        esac
        shift
        ;;
    *) die "unknown option $1" ;;
    esac
    shift
done

database_url() {
    [ -z "$url" ] || return 0
    [ "$database" = yes ] || return 0
    # Strings only, as relay.toml has them; a reference (env:, file:, cred:) has to be given.
    url=$(sed -n '/^\[database\]/,/^\[/s/^url = "\(.*\)".*$/\1/p' "$config" | head -n 1)
    case $url in
    postgresql://* | postgres://*) ;;
    *) die "[database] url is not a plain URL in $config: give --database URL" ;;
    esac
}

journal_folder() {
    dir=$(sed -n '/^\[journal\]/,/^\[/s/^dir = "\(.*\)".*$/\1/p' "$config" 2>/dev/null | head -n 1)
    printf '%s' "${dir:-$data/journal}"
}

sums() { (cd "$1" && find . -type f ! -name SHA256SUMS -print0 | sort -z | xargs -0 -r sha256sum); }

save() {
    database_url
    place=$folder/relay-$(date -u +%Y%m%dT%H%M%SZ)
    umask 077
    mkdir -p "$place/config"
    journal=$(journal_folder)
    if [ -d "$journal" ]; then
        # A segment is append-only: what is copied is whole up to some record, and a torn last one is
        # left out when it is read. One that was shipped and removed meanwhile is in the dump.
        mkdir "$place/journal"
        (cd "$journal" && find . -type f) | while read -r file; do
            mkdir -p "$place/journal/$(dirname "$file")"
            cp -p "$journal/$file" "$place/journal/$file" 2>/dev/null || [ ! -e "$journal/$file" ] ||
                die "cannot copy $journal/$file"
        done
    fi
    if [ "$database" = yes ]; then
        pg_dump --format=custom --no-owner --file="$place/database.dump" --dbname="$url"
    fi
    if [ "$secrets" = yes ] && [ -d "$data/secrets" ]; then
        cp -Rp "$data/secrets" "$place/secrets"
    fi
    [ ! -f "$config" ] || cp -Rp "$(dirname "$config")/." "$place/config"
    sums "$place" >"$place/SHA256SUMS"
    sync
    say "saved $(du -sh "$place" | cut -f1)"
    printf '%s\n' "$place"
}

verify() {
    [ -f "$folder/SHA256SUMS" ] || die "$folder is no back-up of ours: no SHA256SUMS"
    (cd "$folder" && sha256sum --quiet --check SHA256SUMS) || die "$folder is damaged"
    [ ! -f "$folder/database.dump" ] || pg_restore --list "$folder/database.dump" >/dev/null ||
        die "the dump cannot be read"
    say "$folder is whole"
}

restore() {
    verify
    database_url
    journal=$(journal_folder)
    for taken in "$data/secrets" "$journal"; do
        [ -z "$(ls -A "$taken" 2>/dev/null)" ] || die "$taken is not empty: restore on a new host"
    done
    if [ "$database" = yes ]; then
        [ -f "$folder/database.dump" ] || die "there is no database.dump: --no-database?"
        tables=$(psql --no-psqlrc --tuples-only --no-align --dbname="$url" \
            --command="SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
        [ "$tables" = 0 ] || die "the database is not empty: restore into a new one"
        pg_restore --no-owner --exit-on-error --single-transaction --dbname="$url" \
            "$folder/database.dump"
    fi
    umask 077
    mkdir -p "$data" "$journal"
    [ ! -d "$folder/secrets" ] || cp -Rp "$folder/secrets" "$data"
    [ ! -d "$folder/journal" ] || cp -Rp "$folder/journal/." "$journal"
    if [ "$(id -u)" = 0 ] && id relay >/dev/null 2>&1; then
        chown -R relay:relay "$data" "$journal"
    fi
    say "restored; start the relay, which ships the journal, then: $RELAY audit; $RELAY doctor"
}

$command
