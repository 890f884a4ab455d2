#!/usr/bin/env bash
# Builds the small images that demo, tests and benchmarks run, as archives that `docker load` takes.
#   images.sh DIR [NETLOAD]   writes DIR/alpine.tar and DIR/hello.tar, and with the load tool of the benchmarks DIR/bench.tar
# alpine: busybox alone, under the name that the walk-through uses. hello: the same with curl and an HTTP server on port
# 3000 that answers HI, who it is and which client address it sees.
set -euo pipefail
out=${1:?usage: images.sh DIR [NETLOAD]}
netload=${2:-}
mkdir -p "$out"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

rootfs() { # DIR
	mkdir -p "$1"/{bin,etc,tmp,proc,sys,dev,root,usr/bin,lib}
	cp "$(command -v busybox)" "$1/bin/busybox"
	for applet in $("$1/bin/busybox" --list); do
		[[ $applet == busybox ]] || ln -sf busybox "$1/bin/$applet"
	done
	echo 'root:x:0:0:root:/root:/bin/sh' >"$1/etc/passwd"
	echo 'root:x:0:' >"$1/etc/group"
	chmod 1777 "$1/tmp"
}

with_program() { # DIR PROGRAM: a dynamic program with the libraries it needs
	local program libs
	program=$(command -v "$2")
	cp -L "$program" "$1/usr/bin/"
	libs=$(ldd "$program" | grep -o '/[^ ]*' || true)
	for lib in $libs; do
		mkdir -p "$1$(dirname "$lib")"
		cp -L "$lib" "$1$lib"
	done
}

archive() { # ROOTFS NAME:TAG FILE CMD-JSON
	local dir=$work/archive-${3##*/} layer config
	mkdir -p "$dir"
	tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -C "$1" -cf "$dir/layer.tar" .
	layer=$(sha256sum "$dir/layer.tar" | cut -d' ' -f1)
	jq -nc --arg diff "sha256:$layer" --argjson cmd "$4" '{
		architecture: "amd64", os: "linux", created: "2026-01-01T00:00:00Z",
		config: {Cmd: $cmd, Env: ["PATH=/usr/bin:/bin"], ExposedPorts: {}},
		rootfs: {type: "layers", diff_ids: [$diff]}, history: [{created: "2026-01-01T00:00:00Z", created_by: "malha"}]
	}' >"$dir/config.json"
	config=$(sha256sum "$dir/config.json" | cut -d' ' -f1)
	mv "$dir/config.json" "$dir/$config.json"
	jq -nc --arg config "$config.json" --arg tag "$2" \
		'[{Config: $config, RepoTags: [$tag], Layers: ["layer.tar"]}]' >"$dir/manifest.json"
	tar -C "$dir" -cf "$3" .
}

rootfs "$work/alpine"
archive "$work/alpine" alpine:latest "$out/alpine.tar" '["/bin/sh"]'

rootfs "$work/hello"
with_program "$work/hello" curl
mkdir -p "$work/hello/www/cgi-bin"
cat >"$work/hello/www/cgi-bin/index.cgi" <<'SERVE'
#!/bin/sh
client=${REMOTE_ADDR#[}
client=${client#::ffff:}
printf 'Content-Type: text/plain\r\n\r\nHI from %s to %s\n' "$(hostname)" "${client%]}"
SERVE
chmod +x "$work/hello/www/cgi-bin/index.cgi"
archive "$work/hello" hello:latest "$out/hello.tar" '["httpd","-f","-p","3000","-h","/www"]'

if [[ -n $netload ]]; then
	rootfs "$work/bench"
	with_program "$work/bench" "$netload"
	archive "$work/bench" malha-bench:latest "$out/bench.tar" '["netload","serve","7000"]'
fi
