"""The 196 class names: known counts, hand-written parts, and rules that hold for every one of them."""

from __future__ import annotations

import hashlib
from collections import Counter
from importlib import resources
from itertools import combinations

import pytest

from evalib.data.car_names import (
    BODY_TYPES,
    CAR_CLASSES,
    IRREGULAR_TYPES,
    TWO_WORD_BRANDS,
    Values,
    car_filters,
    car_values,
    describe_filters,
    filtered_classes,
    parse_car_name,
)

PARSED = {name: parse_car_name(name) for name in CAR_CLASSES}
ONLY_THE_YEAR_DIFFERS = {
    ("Audi", "S4", "Sedan"): (2007, 2012),
    ("Bentley", "Continental GT", "Coupe"): (2007, 2012),
    ("Dodge", "Caliber", "Wagon"): (2007, 2012),
    ("Dodge", "Durango", "SUV"): (2007, 2012),
    ("Ford", "F-150 Regular", "Cab"): (2007, 2012),
    ("Honda", "Odyssey", "Minivan"): (2007, 2012),
    ("Volkswagen", "Golf", "Hatchback"): (1991, 2012),
}


def test_the_packaged_names_are_the_known_ones():
    """The checksum of the devkit's names in the devkit's order, one a line."""
    content = resources.files("evalib.data").joinpath("stanford_cars_classes.txt").read_bytes()
    assert hashlib.sha256(content).hexdigest() == "51e39676a5ed58562eb3038bc9158b28fdb6de5d555072e70f59748f79295ed8"
    assert len(CAR_CLASSES) == len(set(CAR_CLASSES)) == 196
    assert (CAR_CLASSES[0], CAR_CLASSES[28], CAR_CLASSES[195]) == (
        "AM General Hummer SUV 2000",
        "BMW 3 Series Sedan 2012",
        "smart fortwo Convertible 2012",
    )


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("BMW 3 Series Sedan 2012", ("BMW", "3 Series", "Sedan", 2012)),
        ("AM General Hummer SUV 2000", ("AM General", "Hummer", "SUV", 2000)),
        ("HUMMER H2 SUT Crew Cab 2009", ("HUMMER", "H2 SUT Crew", "Cab", 2009)),
        ("Land Rover Range Rover SUV 2012", ("Land Rover", "Range Rover", "SUV", 2012)),
        ("Aston Martin V8 Vantage Coupe 2012", ("Aston Martin", "V8 Vantage", "Coupe", 2012)),
        ("Ford E-Series Wagon Van 2012", ("Ford", "E-Series Wagon", "Van", 2012)),
        ("Ford Ranger SuperCab 2011", ("Ford", "Ranger SuperCab", "Cab", 2011)),
        ("Ram C/V Cargo Van Minivan 2012", ("Ram", "C/V Cargo Van", "Minivan", 2012)),
        ("Dodge Ram Pickup 3500 Crew Cab 2010", ("Dodge", "Ram Pickup 3500 Crew", "Cab", 2010)),
        (
            "Rolls-Royce Phantom Drophead Coupe Convertible 2012",
            ("Rolls-Royce", "Phantom Drophead Coupe", "Convertible", 2012),
        ),
        ("Infiniti G Coupe IPL 2012", ("Infiniti", "G Coupe IPL", "Coupe", 2012)),
        ("Acura Integra Type R 2001", ("Acura", "Integra Type R", "Hatchback", 2001)),
        ("Chrysler 300 SRT-8 2010", ("Chrysler", "300 SRT-8", "Sedan", 2010)),
        ("smart fortwo Convertible 2012", ("smart", "fortwo", "Convertible", 2012)),
    ],
)
def test_parts(name: str, parts: tuple[str, str, str, int]) -> None:
    assert name in CAR_CLASSES
    assert parse_car_name(name) == parts


def test_the_parts_make_the_name_again():
    """Nothing is lost, doubled or moved; a type from the table is the one word that the name does not have there."""
    for name, car in PARSED.items():
        shown = "" if name in IRREGULAR_TYPES else f"{car.type} "
        assert f"{car.brand} {car.model} {shown}{car.year}" == name
        assert car.model
        assert car.type in BODY_TYPES
        assert 1991 <= car.year <= 2012


def test_the_table_has_exactly_the_irregular_names():
    irregular = {name for name in CAR_CLASSES if name.split()[-2] not in BODY_TYPES}
    assert set(IRREGULAR_TYPES) == irregular
    assert len(irregular) == 16
    assert set(IRREGULAR_TYPES.values()) <= set(BODY_TYPES)


def test_counts_of_brands():
    counts = Counter(car.brand for car in PARSED.values())
    assert len(counts) == 49
    largest = {"Chevrolet": 22, "Dodge": 15, "Audi": 14, "BMW": 13, "Ford": 12, "Hyundai": 11}
    assert dict(counts.most_common(6)) == largest
    assert {brand: counts[brand] for brand in TWO_WORD_BRANDS} == {"AM General": 1, "Aston Martin": 4, "Land Rover": 2}
    assert [brand for brand in counts if " " in brand] == ["AM General", "Aston Martin", "Land Rover"]
    assert sum(count == 1 for count in counts.values()) == 19


def test_counts_of_types_and_years():
    """What the last words say, and the sixteen of the table on top."""
    said = Counter(name.split()[-2] for name in CAR_CLASSES if name not in IRREGULAR_TYPES)
    assert said == {
        "Sedan": 46,
        "SUV": 34,
        "Convertible": 26,
        "Coupe": 25,
        "Cab": 17,
        "Hatchback": 13,
        "Van": 7,
        "Wagon": 6,
        "Minivan": 6,
    }
    assert Counter(car.type for car in PARSED.values()) == said + Counter(IRREGULAR_TYPES.values())
    assert Counter(car.year for car in PARSED.values())[2012] == 117


def test_seven_pairs_differ_in_the_year_only():
    years: dict[tuple[str, str, str], tuple[int, ...]] = {}
    for car in PARSED.values():
        years[car[:3]] = tuple(sorted((*years.get(car[:3], ()), car.year)))
    assert {key: found for key, found in years.items() if len(found) > 1} == ONLY_THE_YEAR_DIFFERS


def test_no_two_cars_have_the_same_parts():
    assert not [(a, b) for a, b in combinations(CAR_CLASSES, 2) if PARSED[a] == PARSED[b]]


@pytest.mark.parametrize(
    "name",
    ["", "cat", "BMW 2012", "BMW Sedan 2012", "Opel Corsa C 2012", "BMW 3 Series Sedan 12", "Land Rover SUV 2012"],
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"must be brand, model, body type and year.*Cab, Convertible"):
        parse_car_name(name)


# --- filters --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        (
            {"brand": "BMW", "type": "Sedan", "year": 2012},
            ["BMW ActiveHybrid 5 Sedan 2012", "BMW 3 Series Sedan 2012"],
        ),
        ({"brand": "Land Rover"}, ["Land Rover Range Rover SUV 2012", "Land Rover LR2 SUV 2012"]),
        (
            {"brand": " aston MARTIN"},
            [
                "Aston Martin V8 Vantage Convertible 2012",
                "Aston Martin V8 Vantage Coupe 2012",
                "Aston Martin Virage Convertible 2012",
                "Aston Martin Virage Coupe 2012",
            ],
        ),
        ({"brand": "am general"}, ["AM General Hummer SUV 2000"]),
        ({"brand": ["hummer", "AM General"], "year": (2000, "2009")}, [CAR_CLASSES[0], "HUMMER H2 SUT Crew Cab 2009"]),
        ({"year": [1991, 1997]}, ["Dodge Caravan Minivan 1997", "Volkswagen Golf Hatchback 1991"]),
        ({"type": "cab", "brand": "GMC"}, ["GMC Canyon Extended Cab 2012"]),
        ({}, [*CAR_CLASSES]),
    ],
)
def test_filters_select_classes_in_the_order_of_the_devkit(wanted: dict[str, Values], names: list[str]) -> None:
    assert [*filtered_classes(car_filters(**wanted))] == names


def test_filters_in_proper_spelling():
    filters = car_filters(brand=("smart", "bmw", "Fiat", "BMW"), year=2012, type="suv")
    assert filters == {"brand": ("BMW", "FIAT", "smart"), "type": ("SUV",), "year": ("2012",)}
    assert describe_filters(filters) == "brand BMW or FIAT or smart, type SUV, year 2012"
    assert car_filters(**filters) == filters
    assert car_values("year")[:3] == ("1991", "1993", "1994")


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"brand": "bmv"}, r"no brand 'bmv'\. Did you mean BMW\? It has: Acura, AM General, .*, Volvo\.$"),
        ({"brand": ["BMW", "Rover"]}, r"no brand 'Rover'\. Did you mean Land Rover\?"),
        ({"type": "SuperCab"}, r"no type 'SuperCab'\. It has: Cab, Convertible, .* Sedan, SUV, Van, Wagon\.$"),
        ({"year": 1990}, r"no year 1990\. It has: 1991, 1993, .*, 2012\.$"),
        ({"brand": []}, r"`brand` needs at least one value, or None for all of them: got \[\]"),
    ],
)
def test_unknown_values_of_filters(wanted: dict[str, Values], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        car_filters(**wanted)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (
            {"brand": "bentley", "type": ["Coupe", "SUV"], "year": 2009},
            r"^No class has brand Bentley, type Coupe or SUV, year 2009\. Types and years of Bentley: "
            r"Convertible 2012; Coupe 2007, 2012; Sedan 2007, 2009, 2011\.$",
        ),
        (
            {"type": "Minivan", "year": 1991},
            r"No class has type Minivan, year 1991\. Types and years: Cab .*; Minivan 1997, 2007, 2012; ",
        ),
    ],
)
def test_filters_that_nothing_passes(wanted: dict[str, Values], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        filtered_classes(car_filters(**wanted))
