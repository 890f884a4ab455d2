#!/usr/bin/env bash
# Installs the Debian packages that building, running and testing Malha need, where they are missing.
set -euo pipefail

packages=(containerd runc clang llvm libbpf-dev bpftool libnftables1 nftables iproute2 iputils-ping procps curl jq openssl
	busybox-static docker-registry dnsutils iperf3 tcpdump e2fsprogs perl util-linux build-essential)
missing=()
for p in "${packages[@]}"; do
	dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'install ok installed' || missing+=("$p")
done
# The stock CLI: docker.io brings an engine along, docker-cli does not.
if ! command -v docker >/dev/null; then
	missing+=("$(apt-cache show docker-cli >/dev/null 2>&1 && echo docker-cli || echo docker.io)")
fi
if ((${#missing[@]})); then
	if ((EUID != 0)); then
		echo "setup: needs root to install: ${missing[*]}" >&2
		exit 1
	fi
	echo "setup: installing ${missing[*]}"
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -qq
	apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi
