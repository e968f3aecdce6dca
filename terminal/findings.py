"""What `doctor` finds: a subject, what is the case, and what to do."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    status: str
    """`completed` if all is well, `interrupted` if it is worth a look, `failed` if it is wrong: as of a reply."""
    subject: str
    told: str
    advice: str = ""


def good(subject: str, told: str, advice: str = "") -> Finding:
    return Finding("completed", subject, told, advice)


def unsettled(subject: str, told: str, advice: str) -> Finding:
    return Finding("interrupted", subject, told, advice)


def bad(subject: str, told: str, advice: str) -> Finding:
    return Finding("failed", subject, told, advice)
