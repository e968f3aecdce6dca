"""What is said in the pictures, in English and Korean."""

SQL_TITLE = "Which buyers come back"

SQL_FIRST = "I have orders(buyer_id, paid_at). How many buyers of a month had bought before?"

SQL_FIRST_REPLY = """\
Compare each order with the buyer's **first** one. A buyer who paid in an earlier month has come back:

```sql
with firsts as (
  select buyer_id, min(paid_at) as first_paid
  from orders group by buyer_id
)
select date_trunc('month', o.paid_at) as month,
       count(distinct o.buyer_id) as returning
from orders o join firsts f using (buyer_id)
where date_trunc('month', f.first_paid) < date_trunc('month', o.paid_at)
group by month order by month;
```
"""

SQL_SECOND = "It takes 40 seconds. Would an index help?"

SQL_SECOND_REPLY = """\
Yes. Most of the time goes into **sorting by buyer**, and an index in that order makes the sort unnecessary:

| Step | Without index | With index |
|---|---:|---:|
| First order of each buyer | 31.2 s | 1.4 s |
| Join | 7.9 s | 2.2 s |
| Count by month | 1.3 s | 1.3 s |

1. Create it with `create index on orders (buyer_id, paid_at)`.
2. Run `vacuum analyze orders`, so that the planner reads the index alone.
"""

QUEUE_TITLE = "Explain backpressure simply"

QUEUE = "How would you explain backpressure to someone in their first week?"

QUEUE_REPLY = """\
Think of a kitchen that cooks faster than the waiters can carry. The counter fills, plates get cold, and someone \
drops one. **Backpressure** is the waiter saying “wait”, and the kitchen actually waiting.

In code the counter is a queue. Give it a size, and decide what happens when it is full:

```python
queue = Queue(maxsize=32)            # the counter
try:
    queue.put(order, timeout=0.5)    # wait a little
except Full:
    raise TooBusy("try again in a second")
```

When the queue is full you can wait, drop the newest, or refuse with a clear answer. Waiting is right inside one \
process; """

QUEUE_END = "across a network, refuse early, so that the caller can decide."

BRIEF = "And in one sentence?"

BRIEF_REPLY = "A slow part tells the fast one to wait, so that nothing in between overflows."

ALTERNATIVES: dict[str, list[tuple[str, float]]] = {
    "A": [("A", 0.62), ("It", 0.14), ("The", 0.11), ("Back", 0.06)],
    " slow": [(" slow", 0.34), (" consumer", 0.31), (" system", 0.2), (" receiver", 0.09), (" busy", 0.03)],
    " part": [(" consumer", 0.47), (" part", 0.29), (" receiver", 0.16), (" side", 0.05)],
    " tells": [(" tells", 0.93), (" asks", 0.05)],
    " fast": [(" fast", 0.71), (" faster", 0.22), (" sender", 0.04)],
    " wait": [(" wait", 0.78), (" slow", 0.19)],
    " nothing": [(" nothing", 0.55), (" the", 0.21), (" no", 0.17)],
    " between": [(" between", 0.99)],
    " overflows": [(" overflows", 0.44), (" breaks", 0.27), (" is", 0.15), (" piles", 0.09)],
}
"""The tokens of BRIEF_REPLY that were not certain: what could have stood there, and how probable each was."""

STEW_TITLE = "된장찌개 4인분으로 늘리기"

STEW_FIRST = "된장찌개 2인분 레시피를 4인분으로 늘리면 물도 두 배로 넣어야 하나요?"

STEW_FIRST_REPLY = """\
아니요, 물은 **1.6배 정도**가 알맞습니다. 냄비가 넓어져도 끓는 동안 날아가는 양은 두 배가 되지 않기 때문입니다. \
간은 된장을 다 넣지 말고 마지막에 맞추세요.

| 재료 | 2인분 | 4인분 |
|---|---:|---:|
| 멸치 육수 | 500 ml | 800 ml |
| 된장 | 2큰술 (36 g) | 3½큰술 (63 g) |
| 애호박, 감자 | 각 ¼개 | 각 ½개 |
"""

STEW_SECOND = "순서도 알려 주세요. 감자가 자꾸 으깨져요."

STEW_SECOND_REPLY = """\
감자는 **찬 육수부터** 넣고 중약불로 익히면 겉만 무르지 않습니다.

1. 찬 육수에 감자를 넣고 끓기 시작하면 6분.
2. 된장을 체에 풀고 애호박을 넣어 4분.
3. 두부와 대파는 불을 끄기 2분 전에. 이때부터는 젓지 않습니다.
"""

STEW_PROMPT = "요리 선생님처럼 짧게, 분량은 그램과 숟가락으로 함께 알려 주세요."

SALES_TITLE = "Quarterly report in three paragraphs"

SALES_STOPPED = "Explain the sales table of the third quarter in two sentences."

SALES_STOPPED_REPLY = (
    "Sales rose by 8% against the second quarter, and more than half of the increase came from subscriptions. "
    "One-off purchases"
)

SALES_INTERRUPTED = "Split it by region, please."

SALES_INTERRUPTED_REPLY = "The capital has 62% and the south coast 15%. Compared with the second quarter,"

SALES_FAILED = "Now summarise the whole report in three paragraphs."

TERMINAL_QUESTION = "How do I keep the potatoes whole in a soybean paste stew?"

TERMINAL_REPLY = """\
1. Potatoes in **cold stock** (감자는 찬 육수부터); 6 minutes from the boil.
2. Soybean paste through a sieve, then courgette; 4 minutes.
3. Tofu and leek 2 minutes before the end. Do not stir any more.
"""

TERMINAL_SECOND = "And the amounts for four?"

TERMINAL_SECOND_REPLY = """\
| Ingredient | Two people | Four people |
|---|---:|---:|
| Anchovy stock | 500 ml | 800 ml |
| 된장 | 36 g | 63 g |
| Courgette, potato | ¼ each | ½ each |
"""

TERMINAL_END = "\nAdd the last spoon of paste after tasting."
