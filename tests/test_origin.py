"""Where data came from: plain values that survive a file, and refuse what is none of them."""

from __future__ import annotations

import json

import pytest

from evalib.origin import Origin


def test_plain_values_survive_json():
    origin = Origin("cars", "data", {"brand": ("BMW",), "target": "class", "image_size": 96}, (20, None))
    again = Origin.from_dict(json.loads(json.dumps(origin.to_dict())))
    assert again.to_dict() == origin.to_dict()
    assert again.options == {"brand": ["BMW"], "target": "class", "image_size": 96}
    assert again.take == (20, None)


@pytest.mark.parametrize(
    ("first", "second", "both"),
    [((20, None), (10, 5), (10, 5)), ((20, 4), (None, 9), (20, 4)), ((None, None), (None, None), (None, None))],
)
def test_taking_twice_keeps_the_smaller_number(first, second, both):
    assert Origin("sample").taking(*first).taking(*second).take == both


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"kind": "sample", "root": "", "options": {}},
        {"kind": "pickle", "root": "", "options": {}, "take": [None, None]},
        {"kind": "folder", "root": 3, "options": {}, "take": [None, None]},
        {"kind": "folder", "root": "a", "options": [], "take": [None, None]},
        {"kind": "folder", "root": "a", "options": {}, "take": [0, None]},
        {"kind": "folder", "root": "a", "options": {}, "take": [True, None]},
        {"kind": "folder", "root": "a", "options": {}, "take": 5},
    ],
)
def test_other_values_are_refused(values):
    with pytest.raises(ValueError, match="its 'origin' must"):
        Origin.from_dict(values)
