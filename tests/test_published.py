"""The published dialect, as a caller sees it."""


def test_a_question_is_answered_and_both_are_in_the_history(client) -> None:
    answer = client.post("/query", json={"client_name": "ada", "input": "hi"})
    assert (answer.status_code, answer.json) == (200, {"response": "re: hi"})
    history = client.get("/history", query_string={"client_name": "ada"}).json
    assert [(each["role"], each["content"]) for each in history] == [("user", "hi"), ("assistant", "re: hi")]
