"""Comes to each picture as a person would: with a real server, a real browser and a real terminal."""

from playwright.sync_api import expect

from scripts.screenshots.pictures import FOLDER, PICTURES
from scripts.screenshots.studio import open_studio
from tests.support.browser import launch_chromium


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    expect.set_options(timeout=20_000)
    with launch_chromium() as browser:
        for samples, pictures in PICTURES:
            with open_studio(browser, samples) as studio:
                for name, take in pictures.items():
                    take(studio, FOLDER / name)
                    print(f"{name}: {(FOLDER / name).stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
