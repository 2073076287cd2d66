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

# On standard input: the arguments of a program can be read by every user.
headers() {
    printf 'X-Deadline-Ms: %s\n' "$deadline"
    [ -z "${DRD_TOKEN:-}" ] || printf 'Authorization: Bearer %s\n' "$DRD_TOKEN"
}

for picture; do
    verdict=
    # curl waits a little longer than the service, so that a refusal with its reason arrives.
    answer=$(headers | curl --silent --show-error --max-time "$((deadline / 1000 + 2))" --noproxy '*' \
        --write-out '\nHTTP %{http_code} after %{time_total} s' ${DRD_CA:+--cacert "$DRD_CA"} \
        --header @- --data-binary "@$picture" "$url" 2>&1) && in_time "$answer" &&
        verdict=$(printf '%s\n' "$answer" | sed -n 's/^{.*"verdict":"\([A-Z]*\)".*/\1/p')
    case $verdict in
        OK) ;;
        NG | REVIEW) [ $status = 1 ] || status=3 ;;
        *) verdict='NOT INSPECTED' status=1 && echo "$answer" >&2 ;;
    esac
    printf '%s\t%s\n' "$verdict" "$(printf '%s' "$picture" | LC_ALL=C tr '[:cntrl:]' '?')"
done
exit $status
