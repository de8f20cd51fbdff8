#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later
# One Ganesha exports file systems of two clusters, which have the same export id and give out the same
# file ids: neither shows the names, the files or the attributes of the other.

set -euo pipefail
# shellcheck source=tests/lib/cluster.sh
. "$(dirname "$0")/../lib/cluster.sh"

need_command python3
test_begin
cluster start
# The other cluster needs no storage nodes: names and attributes are exportd's.
mkdir "$RUN/other"
sed -e "s/\"id\": \"$(basename "$RUN")\"/\"id\": \"other\"/" -e "s|$RUN/exportd\"|$RUN/other/exportd\"|" \
  -e 's/"port": 7600/"port": 7700/' "$RUN/cluster.json" >"$RUN/other.json"
exportd=$ROZO_BIN/exportd/rozo-exportd
cluster exec "$exportd" --config "$RUN/other.json" --init >>"$RUN/log/other.log" 2>&1
# No longer than this test may take.
cluster exec timeout 120 "$exportd" --config "$RUN/other.json" >>"$RUN/log/other.log" 2>&1 &
other=$!
cat >>"$RUN/ganesha.conf" <<CONF
EXPORT {
  Export_Id = 2; Path = /other; Pseudo = /other; Access_Type = RW; Squash = No_Root_Squash;
  SecType = sys; Protocols = 4; Transports = TCP;
  FSAL { Name = ROZO; cluster = "$RUN/other.json"; export = "data"; }
}
CONF
cluster kill ganesha TERM
cluster start-daemon ganesha

status=0
PYTHONDONTWRITEBYTECODE=1 timeout 120 "$ROZO_SOURCE/ci/cluster" exec --dir "$RUN" \
  python3 "$ROZO_SOURCE/tests/client/two_exports.py" apart 10.99.0.1 2049 data other || status=$?
cluster kill ganesha TERM
kill -TERM $other
wait $other || true
[ $status = 0 ] || die "the clusters are mixed up"
