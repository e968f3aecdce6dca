"""`python -m server.serving.check`: prints what does not fit among the settings, a sentence a line; starts nothing.

Like every sentence about settings, these name variables and never show values. Exits with 1 if the server would not
start.
"""

from server.serving.start import dotenv_warnings, read_settings, require_shared_store

if __name__ == "__main__":
    settings = read_settings()
    for sentence in dotenv_warnings():
        print(sentence)
    require_shared_store(settings, settings.web_concurrency)
