#!/bin/sh
# Inspects pictures over REST with only curl:   inspect.sh PRODUCT PICTURE...
#
#   DRD_URL=https://inspect.plant:8080   where the service is (default http://127.0.0.1:8080)
#   DRD_TOKEN=...                        if it needs one
#   DRD_CA=ca.pem                        its certificate authority
#   DRD_DEADLINE_MS=500                  time for each picture (default 1000)
#
# Prints a line per picture: verdict and file. Exit status: 0 all OK, 3 something NG or REVIEW,
# 1 something was not inspected.
set -u
[ $# -ge 2 ] || { echo "usage: inspect.sh PRODUCT PICTURE..." >&2; exit 2; }
url="${DRD_URL:-http://127.0.0.1:8080}/v1/inspect?product=$1&include="
shift
deadline=${DRD_DEADLINE_MS:-1000}
status=0

# Whether the last line, written by curl, reports status 200 within the deadline.
in_time() {
    printf '%s\n' "$1" | LC_ALL=C awk -v ms="$deadline" \
        '{ good = $2 == 200 && $4 * 1000 <= ms + 0 } END { exit !good }'
}

for picture; do
    verdict=
    # curl waits a little longer than the service, so that a refusal with its reason arrives.
    answer=$(curl --silent --show-error --max-time "$((deadline / 1000 + 2))" \
        --write-out '\nHTTP %{http_code} after %{time_total} s' \
        ${DRD_CA:+--cacert "$DRD_CA"} ${DRD_TOKEN:+--header "Authorization: Bearer $DRD_TOKEN"} \
        --header "X-Deadline-Ms: $deadline" --data-binary "@$picture" "$url" 2>&1) && in_time "$answer" &&
        verdict=$(printf '%s\n' "$answer" | sed -n 's/^{.*"verdict":"\([A-Z]*\)".*/\1/p')
    case $verdict in
        OK) ;;
        NG | REVIEW) [ $status = 1 ] || status=3 ;;
        *) verdict='NOT INSPECTED' status=1 && echo "$answer" >&2 ;;
    esac
    printf '%s\t%s\n' "$verdict" "$picture"
done
exit $status
