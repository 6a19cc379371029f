#!/usr/bin/env bash
# Resets what runs produced and keeps the grid up: a thin wrapper over playbooks/cleanup.yml.
set -euo pipefail
cd "$(dirname "$0")"

usage() {
    cat <<'EOF'
Usage: ./cleanup.sh [-V] [--yes] [--dry-run] [--tier TIER] [--experiments] [--logs] [--queues] [ansible-playbook options]

  -V             list every target instead of their number
  --yes          do not ask
  --dry-run      list only, delete nothing
  --tier TIER    one tier only: synergos_basic, synergos_plus or synergos_cluster
  --experiments  also delete what MLflow has
  --logs         also delete what Graylog has
  --queues       also empty the broker's queues, dead letters included
EOF
}

extra=()
while [ $# -gt 0 ]; do
    case $1 in
        -V) extra+=(-e cleanup_verbose=true) ;;
        --yes) extra+=(-e cleanup_confirmed=true) ;;
        --dry-run) extra+=(-e cleanup_dry_run=true) ;;
        --experiments) extra+=(-e cleanup_experiments=true) ;;
        --logs) extra+=(-e cleanup_logs=true) ;;
        --queues) extra+=(-e cleanup_queues=true) ;;
        --tier) extra+=(-e "tier=${2:?--tier needs the name of a tier, such as synergos_basic}"); shift ;;
        -h | --help) usage; exit 0 ;;
        *) extra+=("$1") ;;
    esac
    shift
done

playbook=.venv/bin/ansible-playbook
[ -x "$playbook" ] || playbook=$(command -v ansible-playbook) || {
    echo "ansible-playbook is missing: run make synbasic first, or pip install -r requirements.txt" >&2
    exit 1
}
exec "$playbook" playbooks/cleanup.yml "${extra[@]}"
