#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later
# What does not make a file larger can be written, stable, while rozo-exportd hangs (SIGSTOP: its
# connections stay open) and while it is dead: it is asked whether a truncation waits, but not for
# long. Every page is right afterwards.

set -euo pipefail
# shellcheck source=tests/lib/cluster.sh
. "$(dirname "$0")/../lib/cluster.sh"

test_begin
# shellcheck source=tests/lib/page_load.sh
. "$ROZO_SOURCE/tests/lib/page_load.sh"
cluster start --fsal none
page_load load --files 8 --pages 64 --kind sequential
load_begin --kind overwrite
load_proceeds 200 30
cluster kill exportd STOP
load_proceeds 300 60
longest=$(page_load longest)
note "while exportd hangs a write takes $longest ms at most"
[ "$longest" -lt 15000 ] || die "a write took $longest ms while exportd hung"
cluster kill exportd CONT
cluster kill exportd KILL
load_proceeds 500 30
cluster start-daemon exportd
load_proceeds 200 30
load_end
page_load verify --gateways 6
