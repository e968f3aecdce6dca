"""What a run is charged of a day's budget: reserved before it begins, settled with its end."""

from dataclasses import dataclass, replace

TOKEN_BYTES = 3
"""How many bytes of UTF-8 an estimate takes for a token. English has four or more, Korean about four, code three."""

REPLY_TOKENS = 4_096
"""What is reserved for a reply whose length nobody has limited."""


@dataclass(frozen=True, slots=True)
class Charge:
    """One run's part of a budget."""

    key: str
    """Whose budget it is."""
    day: str
    """In UTC, such as `2026-11-20`: the day on which the run was created."""
    reserved: int
    """The tokens that nobody else can reserve while the run is open."""
    prompt_tokens: int
    """The estimate for the prompt of the next request upstream."""
    spent: int | None = None
    """The tokens that the run has spent; None while it is open."""

    def settle(self, status: str, *, earlier: int | None, used: int | None, text: str, is_sent: bool) -> "Charge":
        """The charge of a run that ends with `status`.

        `earlier` are the tokens of its requests until the last pause, `used` those that are known at the end, None if
        the upstream told none. `text` is what was written since that pause. `is_sent` tells whether a request was open.
        A failed request costs nothing. What was written of any other, if its usage is not known, is estimated.
        """
        is_open = is_sent or bool(text)
        if status == "failed" or (status != "completed" and not is_open):
            return replace(self, spent=used or 0)
        written = 0 if used != earlier else self.prompt_tokens + estimate_tokens(text)
        return replace(self, spent=(used or 0) + written)


def estimate_tokens(*texts: str | bytes, size: int = 0) -> int:
    """How many tokens texts have, by their bytes, together with `size` further bytes."""
    size += sum(len(text.encode() if isinstance(text, str) else text) for text in texts)
    return -(-size // TOKEN_BYTES)
