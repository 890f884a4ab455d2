#!/usr/bin/env bash
# Holds connections through a VIP and through published ports idle for 20 minutes under real settings, then uses them.
# tests/idle.rs shows the same within seconds, by shortening connection tracking's time-outs instead.
set -euo pipefail
malha=$(realpath "${MALHA:?path of the malha binary}")
minutes=${MINUTES:-20}
name=idle-long-$$
here=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
talkers=()

clean() {
	for t in "${talkers[@]}"; do kill "$t" 2>/dev/null || true; done
	"$malha" dev --name "$name" down
	rm -rf "$work"
}
trap clean EXIT

dev() { "$malha" dev --name "$name" "$@"; }
docker_on() { dev exec "$1" docker "${@:2}"; }

bash "$here/scripts/images.sh" "$work"
dev up --nodes 3
for node in node1 node2 node3; do docker_on "$node" load -q -i "$work/alpine.tar"; done
docker_on node1 network create -d overlay net
docker_on node1 service create -q --name echo --network net -p 7000:7000 --constraint node.hostname==node3 \
	alpine nc -ll -p 7000 -e cat
docker_on node1 service create -q --name cli --network net --mode global alpine sleep 24h
vip=$(docker_on node1 service inspect -f '{{range .Endpoint.VirtualIPs}}{{.Addr}} {{end}}' echo |
	tr ' ' '\n' | sed -n 's,^\(10\.0\.1\..*\)/24$,\1,p')

# shellcheck disable=SC2016 # expanded where it runs
talk='exec 3<>"/dev/tcp/$1/7000"; echo first >&3; IFS= read -r -t 5 a <&3; sleep "$2"; echo again >&3
	IFS= read -r -t 10 b <&3; [[ $a$b == firstagain ]]'
# shellcheck disable=SC2016
enter='echo $$ >"$(awk '\''$3 == "cgroup2" { print $2; exit }'\'' /proc/mounts)$(sed -n "s/^0:://p" "/proc/$1/cgroup")/cgroup.procs"
	exec nsenter -t "$1" -n bash -c "${@:2}"'
declare -A what
start() { # WHAT COMMAND...
	"${@:2}" &
	talkers+=($!)
	what[$!]=$1
}

idle=$((minutes * 60))
for node in node1 node2 node3; do
	container=$(docker_on "$node" ps -q --filter name=cli)
	pid=$(docker_on "$node" inspect -f '{{.State.Pid}}' "$container")
	start "VIP from $node" bash -c "$enter" bash "$pid" "$talk" bash "$vip" "$idle"
	addr=$(dev status --json | jq -r --arg n "$node" '.nodes[] | select(.name == $n).addr')
	start "published port of $node" dev exec client bash -c "$talk" bash "$addr" "$idle"
done
echo "idle for $minutes minutes"
failed=0
for t in "${talkers[@]}"; do
	if wait "$t"; then echo "answers: ${what[$t]}"; else echo "LOST: ${what[$t]}"; failed=1; fi
done
talkers=()
exit "$failed"
