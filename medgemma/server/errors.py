"""Why a request gets no answer, as a status and a body."""

from typing import Any

from medgemma.openai_chat import BodyFault


class Refusal(Exception):
    """A request that is not answered.

    Args:
        status: HTTP's.
        message: one line: what, where, what to do; nothing of what the request holds.
        field: of the body that is at fault.
        code: OpenAI's word for it.
        retry_after_s: when to come again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        field: str | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.field, self.code = status, message, field, code
        self.headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}

    @classmethod
    def of(cls, error: BaseException) -> "Refusal":
        """An error of ours as a refusal: a user's mistake is 400, all else 500 without its text."""
        if isinstance(error, Refusal):
            return error
        if isinstance(error, BodyFault):
            return cls(400, _line(error), field=error.field)
        if isinstance(error, ValueError):
            return cls(400, _line(error))
        if isinstance(error, TimeoutError):
            return cls(504, "no answer within the server's limit of time; ask for less, or raise --request-seconds")
        return cls(500, f"the server failed ({type(error).__name__}); its log says where")

    @property
    def body(self) -> dict[str, Any]:
        """As OpenAI's API tells it."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": self.message, "type": kind, "param": self.field, "code": self.code}}


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
