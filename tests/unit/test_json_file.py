"""Files of JSON that are read value by value: the same values as a parser's, and the line of each fault."""

import json
from collections.abc import Callable
from contextlib import closing, suppress
from tempfile import TemporaryFile
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.core import json_file
from server.core.json_file import MAX_DEPTH, MAX_FIELDS, JsonFile, Span
from server.errors import InvalidImport
from tests.support.pauses import busiest

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def read(content: bytes, reader: Callable[[JsonFile], Any]) -> Any:
    with TemporaryFile() as file:
        file.write(content)
        file.flush()
        with closing(JsonFile(file)) as data:
            return reader(data)


def values(data: JsonFile, span: Span) -> Any:
    """A value, by way of the elements and members within it."""
    if data.kind(span) == "[":
        return [values(data, each) for each in data.elements(span)]
    if data.kind(span) == "{":
        return {name: values(data, each) for name, each in data.members(span)}
    return data.parse(span)


def whole(content: bytes) -> Any:
    return read(content, lambda data: values(data, data.root()))


def lines(content: bytes) -> list[Any]:
    found: list[Any] = read(content, lambda data: [data.parse(each) for each in data.lines()])
    return found


def fields(content: bytes) -> dict[str, Any]:
    return read(content, lambda data: {name: data.parse(span) for name, span in data.fields(data.root()).items()})


def refusal(content: bytes, reader: Callable[[bytes], Any] = whole) -> str:
    with pytest.raises(InvalidImport) as refused:
        reader(content)
    return str(refused.value)


class TestValues:
    @given(st.lists(VALUES) | st.dictionaries(st.text(), VALUES), st.sampled_from([None, 0, 2]), st.booleans())
    def test_they_are_those_of_a_parser(self, value: Any, indent: int | None, is_ascii: bool) -> None:
        text = json.dumps(value, indent=indent, ensure_ascii=is_ascii).encode("utf-8", "surrogatepass")
        assert whole(text) == value

    @given(st.lists(VALUES))
    def test_one_on_each_line_are_those_of_a_parser(self, many: list[Any]) -> None:
        assert lines(b"\n".join(json.dumps(each).encode() for each in many) + b"\n") == many

    @pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b" \t\n\n"])
    def test_blanks_and_a_byte_order_mark_do_not_count(self, end: bytes) -> None:
        assert whole(b'\xef\xbb\xbf\r\n [1,\t2 , "a" ]' + end) == [1, 2, "a"]
        assert lines(b'\xef\xbb\xbf[1]\r\n\n  {"a":2} ' + end) == [[1], {"a": 2}]

    def test_fields_are_the_last_of_each_name(self) -> None:
        assert fields(b'{"a": 1, "b": [{}], "a": 2}') == {"a": 2, "b": [{}]}

    def test_fields_of_one_name_count_too(self) -> None:
        assert fields(b"{" + b'"a": 1,' * (MAX_FIELDS - 1) + b'"b": 2}') == {"a": 1, "b": 2}
        assert "fields" in refusal(b"{" + b'"a": 1,' * MAX_FIELDS + b'"b": 2}', fields)


class TestFaults:
    @pytest.mark.parametrize(
        ("content", "line"),
        [
            (b'[1,\n2,\n"x', 3),
            (b'[1,\n2,\n"x\n', 3),
            (b'[1,\n2,\n"x\ny"]\n', 3),
            (b"[1,\n2,\n", 2),
            (b"[1,\n2\n", 2),
            (b"[1,\n2\n3]", 3),
            (b"[1,\n\n,3]", 3),
            (b"[1,\n2,\n]", 3),
            (b"[1,\n2\n}", 3),
            (b"[1,\n2]\n]", 3),
            (b"[1,\ntru]", 2),
            (b'{"a": 1,\n"b" 2}', 2),
            (b'{"a": 1,\nb: 2}', 2),
            (b'{"a": 1,\n"b": }', 2),
            (b'[1,\n{"a": [1, 2,\n3,]}]', 3),
            (b'[1,\n"\\ud800"]', 2),
            (b'[1,\n"\xff"]', 2),
            (b'[1,\n"a\\x"]', 2),
            (b"[1,\n01]", 2),
            (b"[1,\nNaN]", 2),
            (b"", 1),
            (b"\n\n", 1),
        ],
    )
    def test_the_line_is_told(self, content: bytes, line: int) -> None:
        assert refusal(content).startswith(f"Line {line}: ")

    def test_within_a_value_it_is_the_line_of_the_fault(self) -> None:
        def parse(content: bytes) -> Any:
            return read(content, lambda data: [data.parse(each) for each in data.elements(data.root())])

        for broken, line in [
            (b'{"a":\n1,\n"b": tru}', 4),
            (b'{"a":\n"\xff"}', 3),
            (b'{"a":\n"\\udc00"}', 3),
            (b"[1\n}", 3),
        ]:
            assert refusal(b"[1,\n" + broken + b",\n2]", parse).startswith(f"Line {line}: ")

    @pytest.mark.parametrize(
        ("content", "line"),
        [
            (b'{"a": 1}\n{"a": \n{"a": 2}\n', 2),
            (b'{"a": 1}\n\n{"a": "x\n', 3),
            (b'{"a": 1}\n{"a": 1} x\n', 2),
            (b'{"a": 1}\n{"a": 1}{"a": 1}\n', 2),
            (b'{"a": 1}\n{"a": [}\n{"a": 1}', 2),
            (b'{"a": 1}\n{"a": tru}\n{"a": 1}', 2),
            (b'{"a": 1}\n{"a": 1', 2),
            (b'{"a": 1}\n}\n', 2),
        ],
    )
    def test_a_fault_of_one_line_is_told_of_that(self, content: bytes, line: int) -> None:
        assert refusal(content, lines).startswith(f"Line {line}: ")

    @given(st.lists(VALUES, min_size=1))
    def test_a_file_that_is_cut_off_is_refused_with_its_last_line(self, value: list[Any]) -> None:
        text = json.dumps(value, indent=1).encode()
        for stop in range(1, len(text), 1 + len(text) // 50):
            last = text[:stop].rstrip().count(b"\n") + 1
            assert refusal(text[:stop]).startswith(f"Line {last}: ")

    @pytest.mark.parametrize("levels", [MAX_DEPTH + 1, 100_000])
    def test_one_that_is_nested_too_deeply_is_refused(self, levels: int) -> None:
        for reader in (lines, lambda content: read(content, lambda data: list(data.elements(data.root())))):
            assert "deeply" in refusal(b"\n[" + b"[" * levels + b"]" * levels + b"]", reader)
        assert "deeply" in refusal(b"[" + b'{"a":' * levels, lines)

    def test_as_deep_as_allowed_is_fine(self) -> None:
        assert lines(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)


class TestLongValues:
    @pytest.fixture(autouse=True)
    def small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(json_file, "MAX_VALUE_BYTES", 1_000)

    @pytest.mark.parametrize("value", ['"' + "x" * 1_100 + '"', "[" + "1," * 600 + "1]", '["' + "x" * 1_100 + '"]'])
    def test_one_that_is_too_long_is_refused_with_its_line(self, value: str) -> None:
        for reader in (
            lines,
            lambda content: read(content, lambda data: [data.parse(each) for each in data.elements(data.root())]),
        ):
            text = f"[1,\n{value},\n2]" if reader is not lines else f"1\n{value}\n2"
            told = refusal(text.encode(), reader)
            assert told.startswith("Line 2: this value is longer than ")

    def test_blanks_may_be_longer(self) -> None:
        assert whole(b"[" + b" " * 5_000 + b"1]" + b"\n" * 5_000) == [1]

    def test_a_list_of_many_values_may_be_longer(self) -> None:
        assert whole(json.dumps(["x" * 500] * 100).encode()) == ["x" * 500] * 100


class TestPauses:
    """However a file is made, few lines of code run between two pauses, and each searches no more than a piece."""

    MANY = 20_000

    @pytest.mark.parametrize(
        "content",
        [
            pytest.param(b"\n" * MANY + b'{"a": 1}', id="empty lines first"),
            pytest.param(b'{"a": 1}' + b"\r\n" * MANY + b'{"a": 2}', id="empty lines between"),
            pytest.param(b'{"a": 1' + b"\n" * MANY, id="cut off before empty lines"),
            pytest.param(b"\n" * MANY + b"[,", id="broken after empty lines"),
            pytest.param(b" " * MANY, id="empty"),
            pytest.param(b'{"' + b"\\\\" * MANY + b'": 1}', id="a long text"),
            pytest.param(b"[" + b'"",' * MANY + b"1]", id="many texts"),
            pytest.param(b"[" + b"[]," * MANY + b"1]", id="many lists"),
            pytest.param(b"[" + b"1" * MANY + b"]", id="a long number"),
            pytest.param(b"{" + b'"a": 1, ' * MANY + b'"b": 1}', id="one field again and again"),
        ],
    )
    def test_others_are_served_meanwhile(self, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(json_file, "PIECE_BYTES", 64)
        for reader in (lines, lambda content: read(content, lambda data: data.fields(data.root())), whole):
            with busiest(monkeypatch) as steps, suppress(InvalidImport):
                reader(content)
            assert max(steps) < 200
