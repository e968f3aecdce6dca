"""`python -m server.serving.check`: prints what does not fit among the settings, a sentence a line; starts nothing.

Like every sentence about settings, these name variables and never show values. Exits with 1 if the server would not
start.
"""

from collections.abc import Iterable
from dataclasses import fields
from difflib import get_close_matches

from server.environment import read_dotenv
from server.serving.start import read_settings, require_shared_store
from server.settings import Settings

SIMILARITY = 0.8
"""Of a misspelt name; `RENDER_EXTERNAL_HOSTNAME`, which Render sets beside its URL, has 0.74."""


def find_misspelt(names: Iterable[str]) -> dict[str, str]:
    """The names that no setting has and that resemble one, each with the name of that setting."""
    known = [each.name.upper() for each in fields(Settings)]
    similar = {name: get_close_matches(name.upper(), known, 1, SIMILARITY) for name in names if name not in known}
    return {name: found[0] for name, found in similar.items() if found}


if __name__ == "__main__":
    settings = read_settings()
    for name, setting in find_misspelt(read_dotenv()).items():
        print(f"The file .env has {name}, which is no setting; write {setting} if that is meant.")
    require_shared_store(settings, settings.web_concurrency)
