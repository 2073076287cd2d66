# deliver.sh FROM TO: puts every FROM/PRODUCT/VERSION into the models folder TO. Copied under a name that the
# service ignores, then renamed, so that a version is never incomplete. An existing version is not replaced, and
# a withdrawn one stays away until its folder .withdrawn-PRODUCT-VERSION is removed.
set -eu
trap 'exit 143' TERM INT HUP # else a signal ends dash without the trap below
cd "$1"
for bundle in */*; do
  if [ -e "$2/$bundle" ]; then
    echo "$bundle is there already"
    continue
  fi
  withdrawn="$2/.withdrawn-${bundle%/*}-${bundle#*/}"
  if [ -e "$withdrawn" ]; then
    echo "$bundle was withdrawn: it is not delivered while there is $withdrawn"
    continue
  fi
  arriving=$(mktemp -d "$2/.arriving-XXXXXX")
  trap 'rm -rf "$arriving"' EXIT
  cp -R "$bundle/." "$arriving"
  chmod 755 "$arriving"
  mkdir -p "$2/${bundle%/*}"
  mv -T "$arriving" "$2/$bundle"
  echo "$bundle is delivered"
done
