"""Names of Stanford Cars' classes, taken apart: `<brand> <model> <body type> <year>`, as "BMW 3 Series Sedan 2012"."""

from __future__ import annotations

import re
from importlib import resources
from typing import NamedTuple

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
