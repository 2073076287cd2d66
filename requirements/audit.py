"""Known vulnerabilities of all that requirements/*.txt pin, as far as PyPI's advisories can be reached.

Exit status: 1 when there are any. Where nothing can be looked up, as on a plant network, it says so and is 0:
run it where there is a network, and before every release.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

_OPTIONS = ("--require-hashes", "--disable-pip", "--progress-spinner", "off", "--format", "json")


def main() -> int:
    files = sorted(Path(__file__).parent.glob("*.txt"))
    command = [sys.executable, "-m", "pip_audit", *_OPTIONS]
    for file in files:
        command += ["-r", str(file)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        packages: list[dict[str, Any]] = json.loads(ended.stdout)["dependencies"]
    except (ValueError, KeyError):
        _say(f"NOT CHECKED: {(ended.stderr.strip() or 'pip-audit said nothing').splitlines()[-1]}")
        return 0
    unknown = [each["name"] for each in packages if "skip_reason" in each]
    found = {
        f"{each['name']} {each['version']}: {hole['id']}, mended in {', '.join(hole['fix_versions'])}"
        for each in packages
        for hole in each.get("vulns", ())
    }
    for line in sorted(found):
        _say(line)
    if len(packages) > len(unknown):
        _say(f"{len(packages) - len(unknown)} packages checked, {len(found)} known vulnerabilities")
    if unknown:
        _say(f"NOT CHECKED: {len(unknown)} packages, {unknown[0]} first: no advisories within reach")
    return 1 if found else 0


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main())
