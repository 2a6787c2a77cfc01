"""Words of a report, for who does not work with them."""

from typing import Final

TERMS: Final[tuple[tuple[str, str], ...]] = (
    ("Client", "One participant: a hospital, a clinic, a phone. Its data stay with it."),
    ("Round, attempt", "One step of training; one try at it. A try that fails counts for privacy all the same."),
    (
        "Epsilon",
        "A limit on what the run can tell anybody about one protected person: whatever is concluded from it, the odds "
        "change by at most a factor of e to the power of epsilon compared with a run without that person's data. Up "
        "to 1 is strong, up to 10 common, above that weak (tiers of Ponomareva et al. 2023); infinite means no limit.",
    ),
    ("Delta", "The small chance with which that limit may not hold."),
    ("Secure sum", "Updates are masked so that the server can read their sum, and no single one."),
    (
        "Noise",
        "Random numbers that are added so that a sum says little about anyone in it. Noised figures have a range.",
    ),
    ("Joule, Wh, kWh", "Energy: 3600 joules are 1 watt-hour; 1000 of these are 1 kWh."),
    ("g CO2e", "Grams of CO2 with the same effect on the climate as all greenhouse gases that were emitted."),
    ("Average, marginal", "Carbon of a grid's electricity on average; or of the plants that run because of this use."),
    ("Operational, embodied", "Of the electricity that was used; of making the machines, in proportion to their use."),
    ("SCI", "Software carbon intensity (ISO/IEC 21031): all known carbon, divided by rounds or by accuracy points."),
    ("Receipt", "The operator's signature under these figures, which anyone who has the journal can recompute."),
)
