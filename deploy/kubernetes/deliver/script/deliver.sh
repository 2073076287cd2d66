# deliver.sh FROM TO: puts every FROM/PRODUCT/VERSION into the models folder TO. Copied under a name that the
# service passes over, then renamed: a version is there whole or not at all. One that is there stays as it is.
set -eu
cd "$1"
for bundle in */*; do
  if [ -e "$2/$bundle" ]; then
    echo "$bundle is there already"
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
