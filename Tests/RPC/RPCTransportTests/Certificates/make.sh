#!/bin/sh
# Makes the test certificates anew.
set -eu
cd "$(dirname "$0")"
authority() {
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 36500 \
    -subj "/CN=$1" -keyout "$1.key" -out "$1.pem" 2>/dev/null
}
# certificate NAME AUTHORITY ALTERNATIVE-NAMES
certificate() {
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=$1" \
    -keyout "$1.key" -out "$1.csr" 2>/dev/null
  printf 'subjectAltName=%s\n' "$3" >"$1.ext"
  openssl x509 -req -in "$1.csr" -CA "$2.pem" -CAkey "$2.key" -CAcreateserial -days 36500 \
    -extfile "$1.ext" -out "$1.pem" 2>/dev/null
  rm "$1.csr" "$1.ext"
}
authority authority
authority stranger
certificate server authority DNS:localhost
certificate successor authority DNS:localhost,DNS:successor
certificate address authority IP:127.0.0.1
certificate neighbour authority IP:127.0.0.2
certificate client authority DNS:client,URI:spiffe://millrace.test/client
rm -f ./*.srl authority.key stranger.key
