"""What the terminal says, and how it writes numbers. Korean if the locale is, else English."""

import os

SIGNS = {
    "queued": "◌",
    "running": "◌",
    "requires_action": "◌",
    "completed": "●",
    "cancelled": "–",
    "interrupted": "○",
    "failed": "✕",
    "expired": "✕",
}
STYLES = {
    "queued": "dim",
    "running": "green",
    "requires_action": "dim",
    "completed": "green",
    "cancelled": "dim",
    "interrupted": "yellow",
    "failed": "red",
    "expired": "red",
}
"""In the terminal's own colours."""

_KOREAN = {
    "Conversations": "대화",
    "commands": "명령",
    "Ctrl-C stops a reply": "Ctrl-C 답 멈추기",
    "Ctrl-D leaves": "Ctrl-D 나가기",
    "Ctrl-C stops": "Ctrl-C 멈추기",
    "Alt-Enter adds a line": "Alt-Enter 줄바꿈",
    "Waiting for the first word": "첫 글자를 기다리는 중",
    "Writing": "쓰는 중",
    "Stopping": "멈추는 중",
    "Stopped · kept up to here": "멈춤 · 여기까지 저장됨",
    "Stopped · the earlier reply stays": "멈춤 · 앞의 답이 남음",
    "The reply is finished without you.": "답은 끝까지 써 둡니다.",
    "Failed after {}": "{} 뒤 실패",
    "Cut off after {}": "{} 뒤 끊김",
    "/retry asks again": "/retry 다시 시도",
    "Enter asks again": "Enter 다시 시도",
    "reads {} messages": "메시지 {}개와 함께 보냄",
    "reads 1 message": "메시지 1개와 함께 보냄",
    "new conversation": "새 대화",
    "{} tokens": "{}토큰",
    "{} s": "{}초",
    "{} min {} s": "{}분 {}초",
    "{} tok/s": "{}토큰/초",
    "{} messages": "메시지 {}개",
    "The connection is lost. Trying again in {}.": "연결이 끊겼습니다. {} 뒤 다시 연결합니다.",
    "Ask anything. The reply is finished even if you close the window.": (
        "무엇이든 물어보세요. 창을 닫아도 답은 끝까지 써 둡니다."
    ),
    "NAME sets the model; alone, lists them": "NAME 모델 고르기. 이름이 없으면 목록 보기",
    "TEXT sets the system prompt; none takes it back": "TEXT 시스템 프롬프트 정하기. none이면 없애기",
    "[NAME] starts a conversation": "[NAME] 새 대화 시작하기",
    "[WORDS] lists or searches conversations": "[WORDS] 대화 목록 보기, 찾기",
    "NAME opens a conversation": "NAME 대화 열기",
    "deletes the messages of this conversation": "이 대화의 메시지 지우기",
    "[json|jsonl|markdown] [FILE] writes it to a file": "[json|jsonl|markdown] [FILE] 파일로 내보내기",
    "[TEXT] sets the title; alone, has one written": "[TEXT] 제목 정하기. 글이 없으면 모델이 짓기",
    "asks a failed question again, or has the reply written anew": "실패한 질문을 다시 묻거나, 답을 새로 쓰게 하기",
    "shows this": "이 도움말 보기",
    "sends; Alt-Enter adds a line": "보내기. Alt-Enter는 줄바꿈",
    "earlier questions": "지난 질문",
    "stops the reply and keeps it; at the prompt, empties it": (
        "답을 멈추고 거기까지 저장하기. 입력하던 중이면 비우기"
    ),
    "leaves; a reply is finished without you": "나가기. 쓰던 답은 끝까지 써 둡니다",
    "No conversations yet. Your first question starts one.": (
        "아직 대화가 없습니다. 첫 질문을 보내면 여기에 생깁니다."
    ),
}


LEAST_SECONDS = 0.3
"""What is shorter says nothing about a rate."""


def is_korean() -> bool:
    locale = os.environ.get("LC_ALL") or os.environ.get("LC_MESSAGES") or os.environ.get("LANG") or ""
    return locale.startswith("ko")


def say(sentence: str, *values: object) -> str:
    """The sentence in the reader's language, with its values."""
    return (_KOREAN.get(sentence, sentence) if is_korean() else sentence).format(*values)


def tokens(count: int) -> str:
    return say("{} tokens", f"{count:,}")


def seconds(duration: float) -> str:
    """One decimal below 10, whole above, minutes from 60 on."""
    if duration >= 59.5:
        minutes, rest = divmod(round(duration), 60)
        return say("{} min {} s", minutes, rest)
    return say("{} s", f"{duration:.1f}" if duration < 9.95 else round(duration))


def rate(count: int, duration: float) -> str:
    """Tokens by second; empty if nothing can be said."""
    if not count or duration < LEAST_SECONDS:
        return ""
    value = count / duration
    return say("{} tok/s", f"{value:.1f}" if value < 9.95 else f"{value:,.0f}")


def numbers(usage: dict[str, int] | None, duration: float | None) -> str:
    """`731 → 194 tokens · 2.1 s · 92 tok/s`, without what is not known."""
    parts = []
    if usage:
        parts.append(f"{usage['prompt_tokens']:,} → {tokens(usage['completion_tokens'])}")
    if duration is not None:
        parts.append(seconds(duration))
        parts.append(rate(usage["completion_tokens"], duration) if usage else "")
    return " · ".join(part for part in parts if part)
