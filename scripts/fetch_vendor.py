"""`make vendor`: fetches the files of others that our pages use again, by name and version, and takes no other ones.

`versions.json` lists them. For a new version, write its number there, run this, and write the hashes that it tells.
"""

import hashlib
import json
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

VENDOR = Path(__file__).parent.parent / "server/web/vendor"


def main() -> None:
    """Raises SystemExit where a file has another hash than the listed one; nothing of its package is written then."""
    for package in json.loads((VENDOR / "versions.json").read_bytes()):
        named, listed = f"{package['name']}@{package['version']}", package["files"]
        files = fetched(named, listed)
        found = {path: hashlib.sha256(content).hexdigest() for path, content in files.items()}
        if found != listed:
            raise SystemExit(f"{named} is not what versions.json says. Its hashes are\n{json.dumps(found, indent=2)}")
        folder = VENDOR / package["name"]
        folder.mkdir(parents=True, exist_ok=True)
        for path, content in files.items():
            (folder / kept_name(package["name"], path)).write_bytes(content)
        print(f"{named}: {len(files)} files")


def kept_name(package: str, path: str) -> str:
    """The plain name of a package's file. `index.js` takes the package's, since browsers ask for plain names."""
    name = Path(path).name
    return f"{package}.js" if name == "index.js" else name


def fetched(named: str, paths: dict[str, Any]) -> dict[str, bytes]:
    """The content of each of `paths` in npm's archive of a package."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["npm", "pack", "--silent", named], cwd=folder, stdout=subprocess.DEVNULL, check=True)
        (archive,) = Path(folder).glob("*.tgz")
        with tarfile.open(archive) as members:
            return {path: _content(members, f"package/{path}") for path in paths}


def _content(members: tarfile.TarFile, path: str) -> bytes:
    found = members.extractfile(path)
    if found is None:
        raise SystemExit(f"{path} is no file.")
    return found.read()


if __name__ == "__main__":
    main()
