#!/usr/bin/env bash
# Licences, bans and sources of every dependency; advisories where the database can be reached.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! cargo deny --version >/dev/null 2>&1; then
	echo "deny: installing cargo-deny"
	env -u CARGO_TARGET_DIR cargo install --locked --quiet cargo-deny
fi
cargo deny --all-features check licenses bans sources
# The advisory database is a git repository elsewhere: told, not failed, where this machine cannot reach it.
if ! timeout 60 cargo deny --all-features fetch db >/dev/null 2>&1; then
	echo "deny: the advisory database cannot be reached from here; advisories were not checked"
else
	cargo deny --all-features check advisories
fi
