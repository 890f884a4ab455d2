#!/usr/bin/env bash
# The walk-through of Swarm networking, run visibly with the stock docker CLI over three nodes on this machine.
set -euo pipefail
cd "$(dirname "$0")/.."
MALHA=${MALHA:?path of the malha binary}
NAME=${NAME:-demo}
MALHA=$(realpath "$MALHA")
images=$(mktemp -d)
trap 'rm -rf "$images"' EXIT

bold() { printf '\n\033[1m%s\033[0m\n' "$*"; }
dev() { "$MALHA" dev --name "$NAME" "$@"; }
# A command as a person would type it on that node, shown with its output.
on() {
	local node=$1
	shift
	printf '\033[36m%s$\033[0m %s\n' "$node" "$*"
	# The CLI repeats its progress lines where it has no terminal.
	dev exec "$node" "$@" 2>&1 | uniq || echo "(exit ${PIPESTATUS[0]})"
	echo
}
container() { dev exec "$1" docker ps -q --filter "name=$2" | head -n1; }
node_of() { dev exec node1 docker service ps "$1" --filter desired-state=running --format '{{.Node}}' | sed -n "$2p"; }
task_name() {
	dev exec node1 docker service ps "$1" --no-trunc --filter desired-state=running --format '{{.Name}}.{{.ID}}' | sed -n "$2p"
}

bold "Three nodes: one manager, two workers"
dev down >/dev/null 2>&1 || true
bash scripts/images.sh "$images"
dev up --nodes 3 --managers 1
for n in node1 node2 node3; do
	for image in alpine hello; do dev exec "$n" docker load -q -i "$images/$image.tar" >/dev/null; done
done
on node1 docker node ls

bold "1. The ingress network is everywhere, with one id"
for n in node1 node2 node3; do on "$n" docker network ls; done

bold "2. A new overlay is on managers at once, on workers when a task needs it"
on node1 docker network create -d overlay minha_rede_overlay
on node1 docker network ls --filter driver=overlay
on node2 docker network ls --filter driver=overlay

bold "3.-5. A service on it"
on node1 docker service create --name teste_discovery_search --network minha_rede_overlay --replicas 2 alpine sleep 50m
on node1 docker service ps teste_discovery_search
one=$(node_of teste_discovery_search 1)
two=$(node_of teste_discovery_search 2)
on "$two" docker network ls --filter driver=overlay

bold "6. Who is on it"
on "$one" docker network inspect minha_rede_overlay

bold "7. Tasks reach each other by name, across nodes"
on "$one" docker exec "$(container "$one" teste_discovery)" ping -c 3 "$(task_name teste_discovery_search 2)"
on "$two" docker exec "$(container "$two" teste_discovery)" ping -c 3 "$(task_name teste_discovery_search 1)"

bold "8. Without a network: the ingress network isolates its containers"
on node1 docker service create -p 5000:3000 --name hello-a --replicas 2 hello
one=$(node_of hello-a 1)
two=$(node_of hello-a 2)
peer=$(dev exec "$two" docker inspect "$(container "$two" hello-a)" --format '{{.NetworkSettings.Networks.ingress.IPAddress}}')
on "$one" docker exec "$(container "$one" hello-a)" curl -sS -m 2 "http://$peer:3000"
on node1 docker service rm hello-a

bold "9. With a network of its own and a published port"
on node1 docker network create -d overlay my-overlay
on node1 docker service create -p 5000:3000 --network my-overlay --name hello-a --replicas 2 hello
one=$(node_of hello-a 1)
two=$(node_of hello-a 2)
here=$(container "$one" hello-a)
there=$(container "$two" hello-a)
on "$one" docker exec "$here" ip -4 addr

bold "10.-11. The neighbour on my-overlay"
peer=$(dev exec "$two" docker inspect "$there" --format '{{(index .NetworkSettings.Networks "my-overlay").IPAddress}}')
on "$one" docker exec "$here" curl -sS "http://$peer:3000"
on "$one" docker exec "$here" ip neigh

bold "12.-13. Names: the virtual IP, and the tasks behind it"
on "$one" docker exec "$here" nslookup hello-a
for _ in 1 2 3 4; do on "$one" docker exec "$here" curl -sS http://hello-a:3000; done
on "$one" docker exec "$here" nslookup tasks.hello-a

bold "14. From outside, through any node; the server sees the client's own address"
addr() { dev status --json | jq -r --arg n "$1" '.nodes[] | select(.name == $n) | .addr'; }
for n in node1 node2 node3; do on client curl -sS "http://$(addr "$n"):5000"; done
on node1 curl -sS http://localhost:5000

bold "15. A container that is not on my-overlay does not know the name"
one=$(node_of teste_discovery_search 1)
on "$one" docker exec "$(container "$one" teste_discovery)" nslookup hello-a

bold "16. The five parts: packet filter and NAT, load balancer, ARP, NAT, embedded DNS"
on "$one" nft list table inet malha
on node1 "$MALHA" inspect services
on node1 "$MALHA" inspect endpoints
on node1 "$MALHA" inspect drops

bold "It stands. Use it:"
dev status
echo
echo "  export DOCKER_HOST=unix:///run/malha/dev/$NAME/node1.sock"
echo "  docker service ls"
echo "  $MALHA dev --name $NAME down      # removes everything"
