"""JSON that is read back: strictly, by one check, with the place of what is wrong."""

import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynhp_jax.common import json_files, schema
from dynhp_jax.common.errors import UserError

POINT = schema.fields(
    {"x": schema.NUMBER, "units": schema.mapping_of(schema.POSITIVE, 1)},
    optional={"tags": schema.list_of(schema.TEXT)},
)


@pytest.mark.parametrize(
    ("kind", "fitting", "others"),
    [
        (schema.WHOLE, [0, 2**63 - 1], [-1, 2**63, True, 1.0, "1", None]),
        (schema.POSITIVE, [1], [0, False]),
        (schema.whole(2, 3), [2, 3], [1, 4]),
        (schema.NUMBER, [-1, 0.5], [True, "1", None, [], 10**400, float("nan"), float("inf")]),
        (schema.NOT_NEGATIVE, [0, 1e300], [-1e-9, None]),
        (schema.TEXT, ["", "a"], [None, 1, ["a"]]),
        (schema.NAME, ["a", "seed0-lam0.1", "..."], ["", ".", "..", "a/b", "/", "a\0", 3]),
        (schema.SHA256, ["0" * 64], ["0" * 63, "G" * 64, 0]),
        (schema.optional(schema.TEXT), [None, "a"], [1]),
        (schema.list_of(schema.WHOLE, 1), [[1, 2]], [[], {}, "12", [1, "2"], None]),
        (schema.tuple_of(schema.TEXT, schema.WHOLE), [["a", 1]], [["a"], ["a", 1, 2], [1, "a"]]),
        (schema.mapping_of(schema.WHOLE, 1), [{"a": 1}], [{}, [], {"a": "b"}]),
        (schema.rising(schema.WHOLE, "rising"), [[], [3], [1, 4]], [[1, 1], [2, 1], [1, "2"], 3]),
        (POINT, [{"x": 1, "units": {"a": 1}, "more": []}], [{"x": 1}, {"units": {"a": 1}}, [], 5]),
    ],
)
def test_kinds_hold_what_they_say_and_nothing_else(kind, fitting, others):
    for value in fitting:
        schema.check(value, kind)
    for value in others:
        with pytest.raises(schema.Unfit, match="^it"):
            schema.check(value, kind)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"x": 1}, "it has no units"),
        ({"x": None, "units": {}}, "its x is not a finite number"),
        ({"x": 1, "units": {}}, "its units is not an object that is not empty"),
        ({"x": 1, "units": {"a": 1, "b": 0}}, "its units.b is not a whole number, 1 or more"),
        ({"x": 1, "units": {"a": 1}, "tags": ["c", 3]}, r"its tags\[1\] is not a text"),
        ({"x": 1, "units": {"a\n" * 99: 0}}, r"its units.'(a\\n){20}' is not a whole number"),
        ([], "it is not an object"),
    ],
)
def test_the_first_fault_is_named_by_its_path(value, says):
    with pytest.raises(schema.Unfit, match=f"^{says}"):
        schema.check(value, POINT)


NO_JSON = {
    b"": "it is no JSON",
    b"\0\0": "it is no JSON",
    b"{} {}": "it is no JSON",
    b"\xff{}": "it is no text in UTF-8",
    b"\xef\xbb\xbf{}": "it is no JSON",
    b"[NaN]": "NaN is no number of JSON",
    b"[-Infinity]": "-Infinity is no number of JSON",
    b"[1e999]": "1e999 is too large for a number",
    b"1" * 5000: "a number in it has too many digits",
    b'{"a": {"b": 1, "c": 2, "b": 1}}': "an object in it has b twice",
    b'["\\ud800"]': "a text in it is no Unicode",
    b"[" * 200_000: "it is nested too deeply",
    b'{"a":' * 200_000: "it is nested too deeply",
}


@pytest.mark.parametrize("content", NO_JSON, ids=lambda content: repr(content[:20]))
def test_what_only_looks_like_json_is_refused_with_file_and_remedy(content, tmp_path):
    with pytest.raises(json_files.NotJson, match=f"^{NO_JSON[content]}"):
        json_files.loads(content)
    file = tmp_path / "values.json"
    file.write_bytes(content)
    with pytest.raises(UserError, match=f"^{file}.*: {NO_JSON[content]}.*; mend it$") as caught:
        json_files.read(file, schema.MAPPING, "mend it")
    assert "\n" not in str(caught.value)


def test_the_line_of_a_fault_is_said(tmp_path):
    file = tmp_path / "values.json"
    for content in (b'{\n "a": 1,\n nothing}', b'{\n "a": 1,\n "\xff": 2}'):
        file.write_bytes(content)
        with pytest.raises(UserError, match="values.json, line 3: "):
            json_files.read(file, schema.MAPPING, "mend it")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"])), inner
    ),
    max_leaves=20,
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(JSON)
def test_json_itself_comes_back(value):
    assert json_files.loads(json.dumps(value).encode()) == value


@settings(max_examples=60, deadline=None)
@given(JSON, st.sampled_from([POINT, schema.list_of(POINT), schema.rising(schema.WHOLE, "up")]))
def test_any_value_fits_or_is_a_phrase(value, kind):
    try:
        schema.check(value, kind)
    except schema.Unfit as fault:
        assert str(fault).startswith("it") and "\n" not in str(fault)


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: path.symlink_to("nowhere")])
def test_what_is_no_file_is_not_waited_for(make, tmp_path):
    make(tmp_path / "values.json")
    with pytest.raises(UserError, match="values.json is .*; mend it"):
        json_files.read(tmp_path / "values.json", schema.MAPPING, "mend it")
    with pytest.raises(FileNotFoundError):
        json_files.read(tmp_path / "another.json", schema.MAPPING, "mend it")
