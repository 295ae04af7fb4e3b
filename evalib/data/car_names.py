"""Names of Stanford Cars' classes, `<brand> <model> <body type> <year>`, taken apart and filtered by their parts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from importlib import resources
from typing import NamedTuple, TypeAlias

# One value of a filter, or several of which any will do
Values: TypeAlias = str | int | Sequence[str | int]

# The class names in the devkit's order: line i is the class that the annotations call i, and label i - 1.
CAR_CLASSES: tuple[str, ...] = tuple(
    resources.files("evalib.data").joinpath("stanford_cars_classes.txt").read_text("utf-8").splitlines()
)

BODY_TYPES = ("Cab", "Convertible", "Coupe", "Hatchback", "Minivan", "SUV", "Sedan", "Van", "Wagon")

# A brand is the first word of a name, but for these three.
TWO_WORD_BRANDS = ("AM General", "Aston Martin", "Land Rover")

# The sixteen names that do not say their body type in the last word before the year, and the body that was sold under
# that name in the United States in that year (general knowledge, not part of the dataset). Every word between brand
# and year is the model here.
IRREGULAR_TYPES = {
    "Acura TL Type-S 2008": "Sedan",
    "Acura Integra Type R 2001": "Hatchback",  # two doors and a hatch, as the Eagle Talon, a Hatchback by its name
    "Buick Regal GS 2012": "Sedan",
    "Chevrolet Corvette ZR1 2012": "Coupe",
    "Chevrolet Corvette Ron Fellows Edition Z06 2007": "Coupe",
    "Chevrolet HHR SS 2010": "Wagon",
    "Chevrolet Cobalt SS 2010": "Coupe",  # the sedan ended with 2009
    "Chevrolet TrailBlazer SS 2009": "SUV",
    "Chrysler 300 SRT-8 2010": "Sedan",
    "Dodge Challenger SRT8 2011": "Coupe",
    "Dodge Charger SRT-8 2009": "Sedan",
    "FIAT 500 Abarth 2012": "Hatchback",
    "Ford Ranger SuperCab 2011": "Cab",
    "Infiniti G Coupe IPL 2012": "Coupe",
    "Jaguar XK XKR 2012": "Coupe",  # sold as a convertible too
    "Lamborghini Gallardo LP 570-4 Superleggera 2012": "Coupe",
}


class CarName(NamedTuple):
    """The parts of a class name; no two of the 196 names have all four in common.

    Attributes:
        brand: "BMW", "Land Rover".
        model: whatever stands between brand and type, as "3 Series", "F-150 Regular" (a Cab), "E-Series Wagon" (a Van).
        type: one of `BODY_TYPES`.
        year: of production.
    """

    brand: str
    model: str
    type: str
    year: int


def parse_car_name(name: str) -> CarName:
    """Take a class name apart.

    Args:
        name: spelled as in `CAR_CLASSES`, or another one of the same form.

    Raises:
        ValueError: if it does not have that form.
    """
    brand = next((brand for brand in TWO_WORD_BRANDS if name.startswith(f"{brand} ")), name.partition(" ")[0])
    words = name[len(brand) :].split()
    if name in IRREGULAR_TYPES:
        return CarName(brand, " ".join(words[:-1]), IRREGULAR_TYPES[name], int(words[-1]))
    if len(words) < 3 or not re.fullmatch(r"\d{4}", words[-1]) or words[-2] not in BODY_TYPES:
        raise ValueError(
            f"A car's name must be brand, model, body type and year, as 'BMW 3 Series Sedan 2012', with one of the "
            f"types {', '.join(BODY_TYPES)}: got {name!r}."
        )
    return CarName(brand, " ".join(words[:-2]), words[-2], int(words[-1]))


def car_values(kind: str, classes: Sequence[str] = CAR_CLASSES) -> tuple[str, ...]:
    """The brands, types or years (`kind` "brand", "type" or "year") of some classes, each once, in their order."""
    found = {str(getattr(parse_car_name(name), kind)) for name in classes}
    return tuple(sorted(found, key=str.casefold))


def car_filters(
    brand: Values | None = None, type: Values | None = None, year: Values | None = None
) -> dict[str, tuple[str, ...]]:
    """The filters that are given, as {"brand": ("BMW",), "year": ("2007", "2012")}: spelled as in the names, sorted.

    Args:
        brand: one or several brands, in small or capital letters.
        type: the same of `BODY_TYPES`.
        year: the same of years.

    Raises:
        ValueError: for a value that no class has, with a list of those that exist; for an empty sequence.
    """
    filters = {}
    for kind, given in (("brand", brand), ("type", type), ("year", year)):
        if given is None:
            continue
        values = [given] if isinstance(given, str | int) else given
        if not values:
            raise ValueError(f"`{kind}` needs at least one value, or None for all of them: got {given!r}.")
        known = {value.casefold(): value for value in car_values(kind)}
        chosen = {_known_value(kind, value, known) for value in values}
        filters[kind] = tuple(value for value in known.values() if value in chosen)
    return filters


def _known_value(kind: str, value: str | int, known: Mapping[str, str]) -> str:
    key = str(value).strip().casefold()
    if key not in known:
        close = " or ".join(known[match] for match in get_close_matches(key, known) if kind != "year")
        hint = f"Did you mean {close}? " if close else ""
        raise ValueError(f"Stanford Cars has no {kind} {value!r}. {hint}It has: {', '.join(known.values())}.")
    return known[key]


def filtered_classes(filters: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """The classes, in the devkit's order, whose parts are among the values of every filter of `car_filters`.

    Raises:
        ValueError: if there is none; it lists the types and years that exist, of the filter's brands if it names some.
    """

    def matching(kinds: Sequence[str]) -> tuple[str, ...]:
        cars = ((name, parse_car_name(name)) for name in CAR_CLASSES)
        return tuple(name for name, car in cars if all(str(getattr(car, kind)) in filters[kind] for kind in kinds))

    found = matching([*filters])
    if not found:
        there = matching([kind for kind in filters if kind == "brand"])
        types = {kind: [name for name in there if parse_car_name(name).type == kind] for kind in BODY_TYPES}
        listed = "; ".join(f"{kind} {', '.join(car_values('year', names))}" for kind, names in types.items() if names)
        brands = f" of {', '.join(filters['brand'])}" if "brand" in filters else ""
        raise ValueError(f"No class has {describe_filters(filters)}. Types and years{brands}: {listed}.")
    return found


def describe_filters(filters: Mapping[str, Sequence[str]]) -> str:
    """The filters in words, as "brand BMW, year 2007 or 2012"."""
    return ", ".join(f"{kind} {' or '.join(values)}" for kind, values in filters.items())
