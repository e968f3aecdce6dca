"""Every error that this server names.

An AppError is either Refused: the caller must change something, or Unavailable: the server or something behind it
failed, and the same request may work later. RunConflict is what the state of the conversation or of the run does not
allow; UpstreamFailed, what the model's server did.

Each has a stable `code` for programs and a sentence for people. `server/http/errors.py` gives each class its HTTP
status. No sentence contains what the caller sent, an address or a key.
"""

from server.rates import RateState

NO_ADDRESS = "There is nothing at this address; /openapi.json lists what there is."


class AppError(Exception):
    retry_seconds: float | None = None
    """When the same request may succeed; None if that is not known."""
    code = "internal_error"
    sentence = "Something went wrong on our side. Please try again; if it happens again, tell the operator."

    def __init__(self, sentence: str | None = None) -> None:
        super().__init__(sentence or self.sentence)


class Refused(AppError):
    code = "refused"


class InvalidRequest(Refused):
    code = "invalid_request"
    sentence = "The request does not fit the contract; compare it with /openapi.json."


class InvalidPosition(InvalidRequest):
    code = "invalid_position"
    sentence = "Last-Event-ID must be the number of characters received so far, and no more than the reply has."


class InvalidImport(InvalidRequest):
    code = "invalid_import"
    sentence = "The file cannot be imported; docs/api.md says what can be."


class UnknownModel(InvalidRequest):
    code = "unknown_model"
    sentence = "The upstream does not offer that model; GET /models lists those that it does."


class ContextTooLong(InvalidRequest):
    code = "context_length_exceeded"
    sentence = "The question is longer than the model can read, even alone; shorten it or choose another model."


class NotFound(Refused):
    """An address that does not exist says NO_ADDRESS. What is another's says the same as what does not exist."""

    code = "not_found"
    sentence = "Nothing with that id or name is here, or it is another client's; check how it is written."


class NotAuthorized(Refused):
    code = "unauthorized"
    sentence = "This needs a valid key: send it in the header Authorization: Bearer KEY, or X-API-Key: KEY."


class NotAllowed(Refused):
    code = "not_allowed"
    sentence = "This key does not open that; use a client_name that it was made for, or ask the operator for a key."


class TooManyAttempts(Refused):
    code = "too_many_attempts"
    sentence = "There were too many wrong keys from this address; wait a minute, then send the right one."
    retry_seconds = 60.0


class MethodNotAllowed(Refused):
    code = "method_not_allowed"
    sentence = "This address does not take that method; the Allow header lists those that it does."


class MisdirectedRequest(Refused):
    code = "misdirected_request"
    sentence = (
        "This server does not answer to the host that the request names; the operator may add it to ALLOWED_HOSTS."
    )


class RunConflict(Refused):
    code = "conflict"


class RequestIdConflict(RunConflict):
    code = "request_id_conflict"
    sentence = "That request_id was used for another input in this conversation; choose a new one."


class RunCancelled(RunConflict):
    code = "run_cancelled"
    sentence = "The reply was cancelled before it was finished; ask again if you still want it."


class NotRetryable(RunConflict):
    code = "not_retryable"
    sentence = "Only a reply that failed or was interrupted can be asked for again."


class NotLastTurn(RunConflict):
    code = "not_the_last_turn"
    sentence = "Only the last turn of a conversation can be replaced; look at its messages again."


class NotEditable(RunConflict):
    code = "not_editable"
    sentence = "That reply answers messages that were added without it, so it has no question of its own to change."


class ConversationExists(RunConflict):
    code = "conversation_exists"
    sentence = "There is a conversation of that name already; choose another client_name, or send on_conflict=copy."


class RunExists(RunConflict):
    code = "run_exists"
    sentence = "The same runs are being imported by another request at this moment; try again when it has ended."


class ImportLost(RunConflict):
    code = "import_lost"
    sentence = "The conversation was deleted while it was imported, perhaps as the server is full; import it again."


class ActionRequired(RunConflict):
    code = "requires_action"
    sentence = "This reply waits for the outputs of tools; submit them to its run, and it goes on."


class NoActionRequired(RunConflict):
    code = "no_action_required"
    sentence = "This run does not wait for outputs of tools; look at its status."


class BodyTooLarge(Refused):
    code = "body_too_large"
    sentence = "The request body is larger than this server takes; send less at once."


class UnsupportedMediaType(Refused):
    code = "unsupported_media_type"
    sentence = "Send the body as JSON, with the header Content-Type: application/json."


class ConversationBusy(Refused):
    code = "conversation_busy"
    sentence = "Too many questions are waiting in this conversation; wait for a reply before asking the next."


class ConversationImporting(ConversationBusy):
    code = "conversation_importing"
    sentence = "This conversation is being imported at the moment; ask again when that is done."


class ClientFull(Refused):
    code = "client_full"
    sentence = "This client keeps as much as it may; delete some, or ask the operator."


class TooManyOpenRuns(Refused):
    code = "too_many_open_runs"
    sentence = "Too many questions of this client are open; wait for a reply before asking the next."


class TooManyStreams(Refused):
    code = "too_many_streams"
    sentence = "This client reads as many streams at once as it may; close one, or wait for its end."


class TooManyRecords(Refused):
    code = "too_many_records"
    sentence = "There are as many of these already as there may be; delete one, or let the operator raise MAX_RECORDS."


class RateLimited(Refused):
    code = "rate_limited"
    sentence = "You have asked as often as this server allows; wait as long as Retry-After says."
    state: RateState | None = None


class BudgetExhausted(Refused):
    code = "budget_exhausted"
    sentence = "The tokens of this day are used up, or reserved by replies being written; ask again after midnight UTC."


class Unavailable(AppError):
    code = "unavailable"


class InternalError(Unavailable):
    code = "internal_error"


class NotConfigured(Unavailable):
    code = "not_configured"
    sentence = "This server has no model behind it yet: set OPENAI_API_KEY, OPENAI_BASE_URL or UPSTREAM=scripted."


class ShuttingDown(Unavailable):
    code = "shutting_down"
    sentence = "This server is restarting; ask again in a moment."


class StoreUnavailable(Unavailable):
    code = "store_unavailable"
    sentence = "The conversations cannot be reached right now; try again in a moment."


class StoreFull(StoreUnavailable):
    code = "store_full"
    sentence = "This server holds as many conversations as it may; the operator can raise MAX_CONVERSATIONS."


class RunInterrupted(Unavailable):
    code = "run_interrupted"
    sentence = "The server stopped while the reply was being written; ask again."


class RunTimedOut(Unavailable):
    code = "run_timed_out"
    sentence = "The reply took longer than this server waits; ask again, perhaps for something shorter."


class RunExpired(Unavailable):
    code = "run_expired"
    sentence = "The outputs of the tools did not come in time; ask again."


class UpstreamFailed(Unavailable):
    code = "upstream_failed"
    sentence = "The model's server failed; try again in a moment."


class UpstreamUnreachable(UpstreamFailed):
    code = "upstream_unreachable"
    sentence = "The model's server cannot be reached; try again in a moment."


class UpstreamNotFound(UpstreamFailed):
    code = "upstream_not_found"
    sentence = "There are no chat completions at that address; the operator must see that OPENAI_BASE_URL ends in /v1."


class UpstreamTimedOut(UpstreamFailed):
    code = "upstream_timed_out"
    sentence = "The model's server did not answer in time; try again in a moment."


class UpstreamRefusedKey(UpstreamFailed):
    code = "upstream_unauthorized"
    sentence = "The model's server refused this server's key; the operator must check OPENAI_API_KEY."


class UpstreamRateLimited(UpstreamFailed):
    code = "upstream_rate_limited"
    sentence = "The model's server takes no more requests right now; try again in a minute."


class UpstreamQuotaExhausted(UpstreamFailed):
    code = "upstream_quota_exhausted"
    sentence = "The account at the model's server is used up; the operator must check its plan and billing."


class UpstreamRefused(UpstreamFailed):
    code = "upstream_refused"
    sentence = "The model's server refused the request; another model or another question may work."


class UpstreamBadReply(UpstreamFailed):
    code = "upstream_bad_reply"
    sentence = "The model's server answered with something that is no reply; try again in a moment."


class UpstreamEmptyReply(UpstreamFailed):
    code = "upstream_empty_reply"
    sentence = "The model wrote nothing; ask in other words, or let the operator raise DEFAULT_MAX_TOKENS."


class UpstreamCut(UpstreamFailed):
    code = "upstream_cut"
    sentence = "The connection to the model broke in the middle of the reply; ask again."
