/** The words of the page in Korean and English, by key: [ko, en], each a text or a function of values. */

const few = (n, one, many) => `${n} ${n === 1 || n === "1" ? one : many}`;
const soon = (s) => (s > 0 ? `${Math.ceil(s)}초 뒤` : "잠시 뒤");
const inSeconds = (s) => (s > 0 ? `in ${Math.ceil(s)} s` : "in a moment");

/** The Korean particle for a word: `after` if its last syllable ends in a consonant, else `plain`. */
function particle(word, after, plain) {
  const last = word.trim().normalize("NFC").slice(-1);
  const hangul = last >= "가" && last <= "힣";
  const closed = hangul ? (last.charCodeAt(0) - 0xac00) % 28 > 0 : /[013678lmn]$|ng$/i.test(word.trim());
  return closed ? after : plain;
}

const WORDS = {
  brand: ["대화", "Conversations"],
  "brand.page": [(title) => `${title} — 대화`, (title) => `${title} — Conversations`],
  menu: ["메뉴", "Menu"],
  close: ["닫기", "Close"],
  cancel: ["취소", "Cancel"],

  "list.name": ["대화", "Conversations"],
  "list.new": ["새 대화", "New conversation"],
  "list.search": ["대화 찾기", "Search conversations"],
  "list.rename": ["이름 바꾸기", "Rename"],
  "list.delete": ["삭제", "Delete"],
  "list.title": ["제목", "Title"],
  "list.renaming": ["Enter 저장 · Esc 취소", "Enter saves · Esc cancels"],
  "list.empty": [
    "아직 대화가 없습니다. 첫 질문을 보내면 여기에 생깁니다.",
    "No conversations yet. Your first question starts one.",
  ],
  "list.none": [
    (q) => `‘${q}’${particle(q, "이", "가")} 든 대화가 없습니다.`,
    (q) => `No conversation contains "${q}".`,
  ],
  "list.found": [(n) => `대화 ${n}개를 찾았습니다.`, (n) => `${few(n, "conversation", "conversations")} found.`],
  "list.more": ["더 보기", "Show more"],

  "group.today": ["오늘", "Today"],
  "group.yesterday": ["어제", "Yesterday"],
  "group.week": ["지난 7일", "Previous 7 days"],
  "group.month": ["지난 30일", "Previous 30 days"],

  "log.name": ["대화 내용", "Conversation"],
  "log.copy": ["복사", "Copy"],
  "log.copied": ["복사됨", "Copied"],
  "log.regenerate": ["다시 쓰기", "Regenerate"],
  "log.edit": ["고치기", "Edit"],
  "log.retry": ["다시 시도", "Retry"],
  "log.jump": ["맨 아래로", "Jump to latest"],
  "log.earlier": ["앞의 답", "Earlier reply"],
  "log.stays": ["새 답이 끝날 때까지 남습니다", "stays until the new one is done"],
  "log.stopped_attempt": [
    "앞의 답이 그대로 남습니다. 이 글은 다음 차례까지만 보입니다.",
    "The earlier reply stays. This one is shown until the next turn.",
  ],
  "log.show": ["보기", "Show"],
  "log.hide": ["접기", "Hide"],
  "log.question": ["질문", "Question"],
  "log.reply": ["답", "Reply"],
  "log.exchange": [(sent, received) => `보냄 ${sent}, 받음 ${received}`, (sent, received) => `${sent} sent, ${received} received`],
  "log.older": ["앞의 메시지 보기", "Show earlier messages"],
  "log.replay": ["모델은 여기부터 읽습니다", "The model reads from here"],
  "log.messages": [(n) => `메시지 ${n}개`, (n) => few(n, "message", "messages")],

  "code.name": [(language) => `${language} 코드`.trim(), (language) => `${language} code`.trim()],
  "code.lines": [(n) => `${n} 줄`, (n) => few(n, "line", "lines")],
  "code.more": [
    (n) => `나머지 ${n}줄 보기`,
    (n) => (n === 1 || n === "1" ? "Show the other line" : `Show the other ${n} lines`),
  ],
  "table.name": ["표", "Table"],
  "image.name": ["그림", "Image"],

  "probabilities.name": ["토큰 확률", "Token probabilities"],
  "probabilities.high": ["90% 이상", "90% and more"],
  "probabilities.middle": ["50–90%", "50–90%"],
  "probabilities.low": ["50% 미만", "under 50%"],
  "probabilities.token": [(text, share) => `${text}, ${share}`, (text, share) => `${text}, ${share}`],
  "probabilities.instead": ["가능했던 토큰", "Possible tokens"],
  "probabilities.bytes": [(hex) => `바이트 ${hex}`, (hex) => `bytes ${hex}`],
  "probabilities.space": ["빈칸", "space"],
  "probabilities.newline": ["줄바꿈", "new line"],

  "panel.name": ["설정", "Settings"],
  "panel.model_group": ["모델과 지시", "Model and instructions"],
  "panel.model": ["모델", "Model"],
  "panel.shutdown": [(date) => `${date}에 종료됩니다`, (date) => `Shuts down on ${date}`],
  "panel.system_prompt": ["시스템 프롬프트", "System prompt"],
  "panel.preset": ["프리셋", "Preset"],
  "preset.none": ["없음", "None"],
  "preset.concise": ["간결하게", "Concise"],
  "preset.translator": ["번역", "Translator"],
  "preset.code_review": ["코드 검토", "Code review"],
  "preset.plain_words": ["쉬운 말로", "Plain words"],
  "preset.concise.text": ["짧고 정확하게 답해 주세요. 서론과 맺음말은 빼 주세요.", "Answer briefly and precisely. Leave out introductions and closing remarks."],
  "preset.translator.text": [
    "한국어로 쓴 글은 영어로, 그 밖의 글은 한국어로 옮겨 주세요. 옮긴 글만 답해 주세요.",
    "Translate Korean into English and everything else into Korean. Answer with the translation only.",
  ],
  "preset.code_review.text": [
    "보내는 코드를 검토해 주세요. 오류, 위험, 읽기 어려운 곳을 중요한 순서로 짚고, 고친 코드를 보여 주세요.",
    "Review the code that I send. Name errors, risks and what is hard to read, the most important first, and show the code mended.",
  ],
  "preset.plain_words.text": [
    "전문 용어 없이 쉬운 말로, 짧은 문단과 예 하나로 설명해 주세요.",
    "Explain in plain words without jargon, in short paragraphs and with one example.",
  ],
  "panel.temperature": ["온도", "Temperature"],
  "panel.default": ["기본값으로", "Use the default"],
  "panel.is_default": ["기본값", "default"],
  "panel.json": ["JSON으로만 답하기", "JSON mode"],
  "panel.probabilities": ["토큰 확률", "Token probabilities"],
  "panel.probabilities_hint": ["다음 답변부터 기록합니다", "Recorded from the next reply on"],
  "panel.saved": ["저장됨", "Saved"],
  "panel.conversation": ["이 대화", "This conversation"],
  "panel.export": ["내보내기", "Export"],
  "panel.import": ["가져오기", "Import"],
  "panel.clear": ["기록 비우기", "Clear"],
  "panel.page": ["페이지", "Page"],
  "panel.language": ["언어", "Language"],
  "panel.theme": ["테마", "Theme"],
  "theme.system": ["시스템", "System"],
  "theme.light": ["밝게", "Light"],
  "theme.dark": ["어둡게", "Dark"],
  "panel.shortcuts": ["단축키", "Shortcuts"],
  "panel.forget_key": ["키 잊기", "Forget the key"],
  "panel.forget_hint": ["이 탭에 둔 키와 초안을 지웁니다", "Clears the key and the drafts of this tab"],

  "usage.name": ["사용량", "Usage"],
  "usage.days": [(n) => `최근 ${n}일`, (n) => `last ${few(n, "day", "days")}`],
  "usage.unit": ["토큰", "tokens"],
  "usage.sent": ["보낸 토큰", "Sent"],
  "usage.received": ["받은 토큰", "Received"],
  "usage.sent_short": ["보냄", "Sent"],
  "usage.received_short": ["받음", "Received"],
  "usage.day": ["날짜", "Day"],
  "usage.questions": [(n) => `질문 ${n}개`, (n) => few(n, "question", "questions")],
  "usage.all": ["모두 보기", "Show all"],
  "usage.empty": ["아직 쓴 토큰이 없습니다.", "No tokens used yet."],
  "usage.chart": ["날마다 보낸 토큰과 받은 토큰. 같은 숫자가 아래 표에 있습니다.", "Tokens sent and received each day. The table below has the same numbers."],

  "box.message": ["메시지", "Message"],
  "box.placeholder": ["메시지를 쓰세요", "Write a message"],
  "box.send": ["보내기", "Send"],
  "box.stop": ["멈추기", "Stop"],
  "hint.send": ["Enter 보내기", "Enter to send"],
  "hint.newline": ["Shift Enter 줄바꿈", "Shift Enter for a new line"],
  "hint.stop": ["Esc 멈추기", "Esc to stop"],
  "hint.replay": [(n) => `이전 메시지 ${n}개와 함께 보냄`, (n) => `Sent with ${few(n, "earlier message", "earlier messages")}`],
  "hint.writing": ["답이 끝나면 보낼 수 있습니다", "You can send when the reply is done"],
  "hint.offline": ["연결되면 보낼 수 있습니다", "You can send when the connection is back"],

  "state.opening": ["여는 중", "Opening"],
  "state.list_writing": ["쓰는 중", "writing"],
  "state.list_failed": ["실패", "failed"],
  "state.list_draft": ["초안", "draft"],
  "state.queued": ["앞의 답을 기다리는 중", "Waiting for the reply before it"],
  "state.waiting": ["첫 글자를 기다리는 중", "Waiting for the first word"],
  "state.connection": ["연결을 기다리는 중", "Waiting for the connection"],
  "state.tool": ["도구의 답을 기다리는 중", "Waiting for a tool"],
  "state.writing": ["쓰는 중", "Writing"],
  "state.done": ["답이 끝났습니다", "The reply is done"],
  "state.stopped": ["멈춤", "Stopped"],
  "state.kept": ["여기까지 저장됨", "kept up to here"],
  "state.failed_after": [(seconds) => `${seconds} 뒤 실패`, (seconds) => `Failed after ${seconds}`],

  "first.title": ["무엇이든 물어보세요.", "Ask anything."],
  "first.title_more": ["창을 닫아도 답은 끝까지 써 둡니다.", "The reply is finished even if you close the window."],
  "first.anywhere": [
    "어느 브라우저에서든, 터미널에서든 같은 대화를 이어 갈 수 있습니다.",
    "Go on with it in any browser, or in a terminal.",
  ],
  "first.programs": [
    (name) => ["다른 프로그램에서는 ", `client_name=${name}`, " 로 이 대화를 부릅니다."],
    (name) => ["Other programs call this conversation ", `client_name=${name}`, ""],
  ],
  "first.shorten": ["이 글을 세 문장으로 줄여 줘", "Shorten this text to three sentences"],
  "first.refuse": ["받은 편지에 정중한 거절 답장을 써 줘", "Write a polite refusal to this letter"],
  "first.sql": ["이 SQL이 왜 느린지 설명해 줘", "Explain why this SQL is slow"],

  "edit.hint": ["새 답이 끝나면 이 차례를 바꿉니다", "Replaces this turn when the new reply is done"],
  "edit.send": ["다시 보내기", "Send again"],

  "clear.title": ["이 대화의 기록을 비울까요?", "Clear this conversation?"],
  "clear.text": [
    (messages, failed) =>
      `메시지 ${messages}개${failed ? `와 실패한 질문 ${failed}개` : ""}가 지워지고, 되돌릴 수 없습니다. 모델과 지시, 사용량은 그대로 남습니다.`,
    (messages, failed) =>
      `${few(messages, "message", "messages")}${failed ? ` and ${few(failed, "failed question", "failed questions")}` : ""} will be deleted. ` +
      "This cannot be undone. Model, instructions and usage stay.",
  ],
  "clear.export": ["먼저 내보내기", "Export first"],
  "clear.do": ["비우기", "Clear"],
  "delete.title": [(name) => `‘${name}’ 대화를 삭제할까요?`, (name) => `Delete the conversation "${name}"?`],
  "delete.text": [
    (messages) => `메시지 ${messages}개와 설정이 지워지고, 되돌릴 수 없습니다. 쓰고 있는 답도 멈춥니다.`,
    (messages) =>
      `${few(messages, "message", "messages")} and its settings will be deleted. This cannot be undone. A reply being written stops.`,
  ],
  "delete.do": ["삭제", "Delete"],

  "import.done": [
    (conversations, left) =>
      `대화 ${conversations}개를 가져왔습니다.${left ? ` 텍스트가 아닌 ${left}개는 뺐습니다.` : ""}`,
    (conversations, left) =>
      `${few(conversations, "conversation", "conversations")} imported${left ? `; ${few(left, "part that is not text was", "parts that are not text were")} left out` : ""}.`,
  ],
  "import.exists": ["같은 이름의 대화가 이미 있습니다.", "A conversation of that name exists already."],
  "import.copy": ["사본으로 가져오기", "Import as a copy"],
  "import.line": [
    (line) => `${line}번째 줄을 읽을 수 없어 아무것도 바꾸지 않았습니다.`,
    (line) => `Line ${line} cannot be read; nothing was changed.`,
  ],
  "import.unreadable": [
    "파일을 읽을 수 없어 아무것도 바꾸지 않았습니다.",
    "The file cannot be read; nothing was changed.",
  ],

  "offline.title": ["연결이 끊겼습니다.", "The connection is lost."],
  "offline.again": [(s) => `${Math.ceil(s)}초 뒤 다시 연결합니다.`, (s) => `Trying again in ${Math.ceil(s)} s.`],
  "offline.draft": ["쓰던 글은 이 브라우저에 저장됩니다.", "Your draft is kept in this browser."],
  "offline.now": ["지금 연결", "Connect now"],
  "offline.state": ["연결 끊김", "Offline"],
  "offline.age": [(age) => `${age} 전까지의 목록`, (age) => `list as of ${age} ago`],
  "online.state": ["서버에 연결됨", "Connected"],

  "elsewhere.deleted": [
    "다른 곳에서 이 대화가 삭제되었습니다. 쓰던 글은 그대로 있습니다.",
    "This conversation was deleted elsewhere. Your draft is still here.",
  ],
  "elsewhere.cleared": ["다른 곳에서 기록을 비웠습니다.", "The history was cleared elsewhere."],

  "key.title": ["키를 입력하세요", "Enter your key"],
  "key.why": [
    "이 서버는 키가 있어야 쓸 수 있습니다. 서버를 운영하는 사람에게 받으세요.",
    "This server asks for a key. Ask whoever runs it for one.",
  ],
  "key.name": ["키", "Key"],
  "key.show": ["키 보기", "Show the key"],
  "key.open": ["열기", "Open"],
  "key.where": [
    "키는 이 탭에만 두고, 이 서버에만 보냅니다.",
    "The key stays in this tab and is sent to this server only.",
  ],
  "key.wrong": [
    "이 키는 쓸 수 없습니다. 끝까지 복사했는지 확인하세요. 기한이 지났거나 지워졌을 수도 있습니다.",
    "This key is not valid. Check that it was copied whole; it may also have expired or been deleted.",
  ],
  "key.ended": [
    "키를 더는 쓸 수 없습니다. 기한이 지났거나 지워졌습니다. 쓰던 글은 그대로 있습니다.",
    "Your key no longer works: it has expired or was deleted. Your draft is kept.",
  ],
  "key.offline": ["서버가 답하지 않습니다. 다시 시도하세요.", "The server does not answer. Try again."],
  "key.too_many": [
    (s) => `잘못된 키가 많았습니다. ${soon(s)} 다시 시도하세요.`,
    (s) => `Too many wrong keys. Try again ${inSeconds(s)}.`,
  ],

  "shortcut.send": ["보내기", "Send"],
  "shortcut.newline": ["줄바꿈", "New line"],
  "shortcut.escape": [
    "닫기, 취소, 멈추기 (이 순서로)",
    "Close what is open, cancel, stop (in this order)",
  ],
  "shortcut.edit": ["빈 칸에서: 마지막 질문 고치기", "In an empty box: edit the last question"],
  "shortcut.search": ["대화 찾기", "Search conversations"],
  "shortcut.new": ["새 대화", "New conversation"],
  "shortcut.settings": ["설정", "Settings"],
  "shortcut.neighbours": ["앞, 다음 대화", "Previous, next conversation"],
  "shortcut.copy": ["마지막 답 복사", "Copy the last reply"],
  "shortcut.latest": ["맨 아래로", "Jump to latest"],
  "shortcut.list": ["이 목록", "This list"],

  "refused.what": [
    "이 키로 열리는 대화를 쓰거나, 서버를 운영하는 사람에게 다른 키를 받으세요.",
    "Use a conversation that your key opens, or ask whoever runs the server for another key.",
  ],
  "refused.own": ["내 대화 열기", "Open your conversation"],

  "error.not_allowed": ["이 키로는 이 대화를 열 수 없습니다.", "This key does not open this conversation."],
  "error.run_interrupted": ["서버가 다시 시작되어 답이 끊겼습니다.", "The server restarted and cut the reply off."],
  "error.upstream_cut": ["모델 서버가 답을 끝내지 않았습니다.", "The model server did not finish."],
  "error.upstream_unreachable": ["모델 서버가 답하지 않았습니다.", "The model server did not answer."],
  "error.run_timed_out": ["답이 너무 오래 걸려 멈췄습니다.", "The reply took too long and was stopped."],
  "error.upstream_unauthorized": ["서버의 모델 키가 거절되었습니다.", "The server's model key was refused."],
  "error.upstream_quota_exhausted": [
    "모델 사용 한도를 다 썼습니다. 운영자에게 알리세요.",
    "Its model quota is used up. Tell whoever runs this server.",
  ],
  "error.upstream_rate_limited": [
    (s) => `모델 서버가 바쁩니다. ${soon(s)} 다시 시도하세요.`,
    (s) => `The model server is busy. Try again ${inSeconds(s)}.`,
  ],
  "error.upstream_refused": ["모델이 이 질문을 받지 않았습니다.", "The model did not take this question."],
  "error.rate_limited": [
    (s) => `질문이 너무 잦습니다. ${soon(s)} 보낼 수 있습니다.`,
    (s) => `Too many questions. You can send again ${inSeconds(s)}.`,
  ],
  "error.budget_exhausted": [
    (s) => (s < 60 ? "다른 답이 토큰을 쓰고 있습니다. 잠시 뒤 다시 보내세요." : "오늘 쓸 수 있는 토큰을 다 썼습니다."),
    (s) => (s < 60 ? "Other replies need the tokens. Send again in a moment." : "Today's tokens are used up."),
  ],
  "error.conversation_busy": [
    "이 대화에 기다리는 질문이 너무 많습니다. 쓰던 글은 그대로 있습니다.",
    "Too many questions wait in this conversation. Your text is still here.",
  ],
  "error.context_length_exceeded": [
    "대화가 모델이 읽을 수 있는 길이를 넘었습니다. 기록을 비우거나 새 대화를 여세요.",
    "The conversation is longer than the model can read. Clear it or start a new one.",
  ],
  "error.unknown_model": [
    "이 모델은 더 이상 없습니다. 다른 모델을 고르세요.",
    "This model is gone. Choose another.",
  ],
  "error.body_too_large": ["글이 너무 깁니다. 나누어 보내세요.", "The text is too long. Send it in parts."],
  "error.not_the_last_turn": [
    "그 뒤에 다른 차례가 생겨 고칠 수 없습니다.",
    "Another turn came after it, so it cannot be changed.",
  ],
  "error.store_unavailable": [
    "지금은 저장할 수 없습니다. 보낸 글은 입력란에 그대로 있습니다.",
    "Nothing can be saved right now. Your text is still in the box.",
  ],
  "error.other": ["문제가 생겼습니다. 다시 시도하세요.", "Something went wrong. Try again."],
  "error.kept_text": [
    "여기까지는 저장되어 있습니다. 다시 시도하면 처음부터 새로 씁니다.",
    "What is above is kept. Retry writes it anew from the start.",
  ],
  "error.kept_question": ["질문은 저장되어 있습니다.", "Your question is kept."],
};

const SAME_ERROR = {
  upstream_bad_reply: "upstream_cut",
  upstream_timed_out: "upstream_unreachable",
  shutting_down: "store_unavailable",
  store_full: "store_unavailable",
};

let index = 1;

/** The language to begin with: the one that was chosen earlier, else the first of the browser's that there is. */
export function chooseLanguage(saved) {
  const wishes = [saved, ...navigator.languages].map((wish) => String(wish).slice(0, 2).toLowerCase());
  return wishes.find((wish) => wish === "ko" || wish === "en") ?? "en";
}

export function setLanguage(lang) {
  index = lang === "ko" ? 0 : 1;
  document.documentElement.lang = lang;
}

export const language = () => (index ? "en" : "ko");

/** The text of `key` in the current language. Numbers come formatted, but for seconds to wait. */
export function t(key, ...values) {
  const text = WORDS[key][index];
  return typeof text === "function" ? text(...values) : text;
}

export const inEachLanguage = (key) => WORDS[key];

/** What an error means to the reader. `fallback` is the server's own sentence, `seconds` its Retry-After, if any. */
export function errorSentence(code, fallback, seconds) {
  const key = `error.${SAME_ERROR[code] ?? code}`;
  if (key in WORDS) return t(key, seconds);
  return (index && fallback) || t("error.other");
}

/** What is kept after a failed run. `hasText` tells if a part of its reply was written. */
export const errorDetail = (hasText) => t(hasText ? "error.kept_text" : "error.kept_question");
