#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later
# One export of the cluster in two EXPORT blocks of one Ganesha: what is made through the one is there
# through the other at once, also when Ganesha remembers no names by itself.

set -euo pipefail
# shellcheck source=tests/lib/cluster.sh
. "$(dirname "$0")/../lib/cluster.sh"

need_command python3
test_begin
cluster start
cat >>"$RUN/ganesha.conf" <<CONF
MDCACHE { Dir_Chunk = 0; }
EXPORT {
  Export_Id = 2; Path = /again; Pseudo = /again; Access_Type = RW; Squash = No_Root_Squash;
  SecType = sys; Protocols = 4; Transports = TCP;
  FSAL { Name = ROZO; cluster = "$RUN/cluster.json"; export = "data"; }
}
CONF
cluster kill ganesha TERM
cluster start-daemon ganesha
PYTHONDONTWRITEBYTECODE=1 timeout 120 "$ROZO_SOURCE/ci/cluster" exec --dir "$RUN" \
  python3 "$ROZO_SOURCE/tests/client/two_exports.py" same 10.99.0.1 2049 data again
